"""Models that stay on their owner's machine: how a version is registered, and how ranges of its files are read."""

from typing import Annotated, Final, Literal, Self

import msgspec
from pydantic import Field, model_validator

from modelshare.wire.base import Request, Response
from modelshare.wire.link import MAX_INTEGER
from modelshare.wire.link import Sha256 as Digest
from modelshare.wire.models import ModelStatus
from modelshare.wire.uploads import MAX_FILES, Sha256, UploadOpen

READ_ROUTE: Final = "held/file"
"""The link's route on which a holder answers with a range of a file."""


class HeldRead(msgspec.Struct, frozen=True, array_like=True):
    """The body of a request on `READ_ROUTE`. The file is named by its digest alone, never by a path."""

    sha256: Digest
    offset: Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]


encode_read = msgspec.msgpack.Encoder().encode
decode_read = msgspec.msgpack.Decoder(HeldRead).decode


class HeldOpen(UploadOpen):
    """A new version whose files stay on the machine that holds them."""

    holder: Annotated[str, Field(max_length=64)]
    """ID of the agent that holds the files; it enrolled with `is_holder`."""

    @model_validator(mode="after")
    def _only_files_with_digests(self) -> Self:
        if self.files is None or any(file.sha256 is None for file in self.files):
            msg = "Give `files`, each with its `sha256`: nothing is uploaded."
            raise ValueError(msg)
        return self


class HeldVersion(Response):
    object: Literal["held_version"] = "held_version"
    model: str
    """The model's id."""
    name: str
    version: str
    status: ModelStatus


class HeldChange(Request):
    """A file that no longer has the bytes that were registered."""

    sha256: Sha256
    is_missing: bool = False
    """It is no longer there; otherwise it has other bytes."""


class HeldChanges(Request):
    files: Annotated[list[HeldChange], Field(min_length=1, max_length=MAX_FILES)]
