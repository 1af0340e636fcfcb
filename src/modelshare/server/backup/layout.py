"""A backup is a folder:

    backup.json        what this is, with the digest of each other part but the weights; written last
    database.db        SQLite, or
    database.dump      PostgreSQL, as `pg_dump --format=custom` writes it
    secret.key         the platform's secret
    sealing.key        the keys that encrypt secrets in the database, if there are any
    settings.toml      for the operator: the settings, without secrets
    tiers.toml         the tiers, where `tiers_file` replaces the built-in ones
    weights.json       key, size and digest of each file of weights
    weights/<key>      the weights, if they were on a disk of the server

It is written under another name and renamed when it is complete.
"""

import contextlib
import errno
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from modelshare.server.storage.base import check_key

MANIFEST: Final = "backup.json"
SIGNING: Final = "secret.key"
SEALING: Final = "sealing.key"
SETTINGS: Final = "settings.toml"
TIERS: Final = "tiers.toml"
WEIGHTS_LIST: Final = "weights.json"
WEIGHTS: Final = "weights"

Kind = Literal["sqlite", "postgresql"]
DATABASE: Final[Mapping[Kind, str]] = {"sqlite": "database.db", "postgresql": "database.dump"}
"""Name of the database's part, by its kind."""


class BackupError(Exception):
    """A backup cannot be made or restored; the message says why and what to do."""


_OF_DISKS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


@contextlib.contextmanager
def file_errors(place: Path) -> Iterator[None]:
    """Explains what the system says about files, mostly below `place`. Errors of connections pass."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno not in _OF_DISKS:
            raise
        raise BackupError(
            f"Cannot use {error.filename or place}: {error.strerror}. Correct this, for example by freeing space, and "
            "run the command again."
        ) from error


class Progress(Protocol):
    """Shows how far the weights are."""

    def started(self, total: int) -> None:
        """`total`: bytes of weights."""

    def moved(self, size: int) -> None:
        """`size` more bytes are done."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class StoredFile(Part):
    """A file of weights that the database names."""

    key: Annotated[str, AfterValidator(check_key)]


class StoredFiles(BaseModel):
    files: list[StoredFile]


class Manifest(BaseModel):
    format: Literal[1] = 1
    version: str
    """Of the modelshare that made it."""
    revision: str
    """Of the database's schema."""
    made_at: int
    database: Kind
    weights: Literal["copied", "left_out", "in_bucket"]
    damaged: list[str] = []
    """Keys of files of weights that were missing or damaged, and are left out."""
    parts: dict[Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z]+$")], Part]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete backup, whose parts but the weights are as they were written. Raises BackupError."""
    manifest = parse_manifest(folder)
    for name, part in manifest.parts.items():
        if not (folder / name).is_file() or part_of(folder / name) != part:
            raise BackupError(f"{folder / name} is missing or damaged. Choose another backup.")
    return manifest


def parse_manifest(folder: Path) -> Manifest:
    """The manifest alone. Raises BackupError."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise BackupError(f"{folder} is not a complete backup: {MANIFEST} is missing. Choose another.") from error
    except ValidationError as error:
        raise BackupError(
            f"{folder / MANIFEST} is damaged, or from a newer modelshare. Choose another backup, or update modelshare."
        ) from error


def read_weights(folder: Path) -> list[StoredFile]:
    return StoredFiles.model_validate_json((folder / WEIGHTS_LIST).read_bytes()).files


def part_of(file: Path) -> Part:
    """Blocks. Size and digest of a file."""
    with file.open("rb") as opened:
        return Part(size=file.stat().st_size, sha256=hashlib.file_digest(opened, "sha256").hexdigest())
