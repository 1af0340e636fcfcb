"""Where a project's models are stored: the platform's storage, or a bucket of its own."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from modelshare.wire.base import Request, Response, UnixSeconds

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Secret = Annotated[str | None, Field(min_length=1, max_length=2000, repr=False)]


class BucketAccess(Request):
    """Where a bucket is, and who the platform is there."""

    endpoint: Text | None = None
    """Omitted: AWS."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$(?!\n)")] | None = None
    addressing: Literal["path", "virtual"] | None = None
    """Omitted: `path` with an endpoint, `virtual` on AWS."""
    access_key_id: Secret = None
    secret_access_key: Secret = None
    role_arn: Annotated[str, Field(pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/[!-~]{1,1500}$(?!\n)")] | None = None
    """A role that the platform assumes with the project's `external_id`, instead of keys."""
    relayed: bool = False
    """Never use presigned URLs: all bytes pass through the platform."""

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("Send `access_key_id` and `secret_access_key` together.")
        if self.role_arn is not None and self.access_key_id is not None:
            raise ValueError("Send either access keys or `role_arn`, not both.")
        return self


class StorageSet(BucketAccess):
    """A bucket that speaks S3. Omitted keys stay as they are, if bucket, prefix and endpoint do."""

    url: Text
    """`s3://bucket/prefix`."""


class MoveTarget(StrEnum):
    OWN = "own"
    """The project's own storage, to which its new pushes go."""
    PLATFORM = "platform"


class MoveState(StrEnum):
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class MoveRequest(Request):
    """Move one version (`model` and `version`), all versions of a model, or of all models (neither)."""

    to: MoveTarget
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """ID or name."""
    version: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="after")
    def _version_of_a_model(self) -> "MoveRequest":
        if self.version is not None and self.model is None:
            raise ValueError("Send `model` together with `version`.")
        return self


class StorageMove(Response):
    """A move of one version to another storage. Pulls and endpoints continue meanwhile."""

    id: str
    object: Literal["storage.move"] = "storage.move"
    model: str
    name: str
    version: str
    to: MoveTarget
    state: MoveState
    reason: str | None = None
    """Why it failed, or what it waits for."""
    bytes_total: int
    bytes_done: int
    created_at: UnixSeconds
    ended_at: UnixSeconds | None = None


class StepState(StrEnum):
    OK = "ok"
    FAILED = "failed"
    WARNING = "warning"
    SKIPPED = "skipped"


class CheckStep(Response):
    """What was tried in the bucket."""

    name: str
    state: StepState
    message: str | None = None
    """What is wrong, and what to do."""
    action: str | None = None
    """The IAM action that grants it."""


class Storage(Response):
    object: Literal["storage"] = "storage"
    kind: str
    """`platform` or `bucket`."""
    url: str | None = None
    endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None
    access_key: str | None = None
    """The end of the access key's ID. Keys are never shown again."""
    role_arn: str | None = None
    external_id: str
    """What the trust policy of a role must require."""
    relayed: bool = False
    created_at: UnixSeconds | None = None
    checked_at: UnixSeconds | None = None
    is_working: bool | None = None
    """Whether no step of the last check failed; null for the platform's storage."""
    checks: list[CheckStep] = Field(default_factory=list)
    iam_policy: dict[str, Any] | None = None
    """What keys or role need, in AWS's form."""
    cors: list[dict[str, Any]] | None = None
    """What browsers need to upload, in AWS's form."""
