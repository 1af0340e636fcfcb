"""Imports: the platform copies a model from another place, as a job that can be resumed."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from modelshare.wire.base import Response, UnixSeconds
from modelshare.wire.models import MODEL_NAME_PATTERN, ModelName
from modelshare.wire.patterns import MAX_PATTERNS, PlainPattern
from modelshare.wire.uploads import NewVersion

_HUB_NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_HUB: Final = re.compile(rf"hf:(?P<repository>{_HUB_NAME}/{_HUB_NAME})(?:@(?P<reference>[!-~]{{1,200}}))?", re.ASCII)
_REGISTRY: Final = re.compile(
    r"oci:(?P<host>[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-f:.]{2,45}\](?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_FORM: Final = "write hf:ORG/NAME, hf:ORG/NAME@REVISION, oci:HOST/REPOSITORY:TAG or oci:HOST/REPOSITORY@sha256:DIGEST"
_MAX_SOURCE: Final = 700


class SourceKind(StrEnum):
    HUGGING_FACE = "hf"
    OCI = "oci"


@dataclass(frozen=True, slots=True)
class SourceReference:
    """What the text of a source says. Pure."""

    kind: SourceKind
    host: str
    """Of a registry; empty for Hugging Face."""
    repository: str
    reference: str
    """A revision, a tag, or a digest."""

    @property
    def default_name(self) -> str | None:
        """The model's name if none is given; None if that would not be valid."""
        name = self.repository.rpartition("/")[2]
        return name if re.fullmatch(MODEL_NAME_PATTERN, name) else None


def parse_source(text: str) -> SourceReference:
    """Raises ValueError with a sentence."""
    if len(text) <= _MAX_SOURCE:
        if found := _HUB.fullmatch(text):
            return SourceReference(SourceKind.HUGGING_FACE, "", found["repository"], found["reference"] or "main")
        if found := _REGISTRY.fullmatch(text):
            reference = found["digest"] or found["tag"] or "latest"
            return SourceReference(SourceKind.OCI, found["host"], found["repository"], reference)
    raise ValueError(_FORM)


def _check_source(text: str) -> str:
    parse_source(text)
    return text


class ImportCreate(NewVersion):
    """A new version with the files of another place. The model is created if there is none of this name."""

    source: Annotated[str, AfterValidator(_check_source)]
    """`hf:ORG/NAME[@REVISION]` or `oci:HOST/REPOSITORY:TAG`."""
    name: ModelName | None = None
    """Omitted: the last part of the source's name."""
    endpoint: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """The URL that is asked instead: of a Hub other than the platform's default, or of a registry without HTTPS."""
    token: Annotated[str | None, Field(max_length=4096, pattern=r"^[!-~]+\Z", repr=False)] = None
    """For a source that is not public; for a registry also `USER:PASSWORD`. Encrypted, and deleted when the import
    ends."""
    token_host: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?\Z")] | None = None
    """Another host to which the token may be sent: that of a registry's token service, as `auth.docker.io`."""
    include: Annotated[list[PlainPattern], Field(max_length=MAX_PATTERNS)] | None = None
    """`.gitignore` patterns of files to import although they are left out by default."""
    exclude: Annotated[list[PlainPattern], Field(max_length=MAX_PATTERNS)] | None = None
    """Patterns of further files to leave out."""


class ImportState(StrEnum):
    IMPORTING = "importing"
    PROCESSING = "processing"
    """All files are stored; the platform checks them."""
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Import(Response):
    object: Literal["import"] = "import"
    id: str
    source: str
    endpoint: str
    """The URL that is asked."""
    commit: str | None = None
    """What the source's reference meant when it was resolved: a commit, or the digest of a manifest."""
    name: str
    model: str | None = None
    """The model's id."""
    version: str | None = None
    state: ImportState
    reason: str | None = None
    """Why it failed, or what it waits for."""
    is_new: bool | None = None
    """False: the model had a version of this commit already. Null until that is known."""
    left_out: str | None = None
    """A sentence that lists what is there and is not imported."""
    files: int | None = None
    bytes_total: int | None = None
    bytes_done: int = 0
    created_at: UnixSeconds
    ended_at: UnixSeconds | None = None
