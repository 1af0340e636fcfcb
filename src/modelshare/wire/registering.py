"""Models that are published where they lie: in a bucket of their owner, from which nothing is copied."""

from typing import Annotated, Literal

from pydantic import Field

from modelshare.wire.base import Response
from modelshare.wire.models import ModelName, ModelStatus
from modelshare.wire.patterns import MAX_PATTERNS, PlainPattern
from modelshare.wire.storage import BucketAccess, Text
from modelshare.wire.uploads import NewVersion


class ModelRegister(NewVersion, BucketAccess):
    """A new version whose files stay where they are. The model is created if there is none of this name.

    Without keys and role, those of the project's storage are used, or those with which this source was registered.
    """

    source: Text
    """The model's folder, `s3://bucket/path/to/model`, or one file of it."""
    name: ModelName
    include: Annotated[list[PlainPattern], Field(max_length=MAX_PATTERNS)] | None = None
    """`.gitignore` patterns of files to publish although they are left out by default."""
    exclude: Annotated[list[PlainPattern], Field(max_length=MAX_PATTERNS)] | None = None
    """Patterns of further files to leave out."""


class Registered(Response):
    """A version that lies in place; it is `processing` until the platform has read it once."""

    object: Literal["registered"] = "registered"
    model: str
    """The model's id."""
    name: str
    version: str
    status: ModelStatus
    source: str
    files: int
    bytes_total: int
    left_out: str | None = None
    """A sentence that lists what lies there and is not published."""
    latest_note: str | None = None
    """Why the version would not become the latest, as of now."""
