"""The errors of a blob store. `errors.py` maps each one to an API error.

StorageError
├── InvalidKeyError          a key or part number that this server never generates
├── BlobNotFoundError
│   └── BlobChangedError     others replaced it
├── TooManyObjectsError
├── MultipartNotFoundError   aborted, expired, or never opened
├── PartsMissingError        `finish` was called before every part was stored
├── PartRefusedError
│   ├── SizeMismatchError
│   ├── ChecksumMismatchError
│   └── PartReplacedError    a newer request is sending the same part
├── StorageFullError
├── StorageUnavailableError  the store is not responding, or not correctly
│   ├── OwnStorageError      the same, for the storage of a project
│   │   └── StorageRefusedError  it answers, and refuses
│   └── HolderAwayError      the same, for the machine of a model's owner
└── StorageSettingError      the `storage` setting is invalid

Each message is shown to the user who sent the request.
"""

from collections.abc import Sequence
from typing import ClassVar

from modelshare.server.outages import Outage, OutageError


class StorageError(Exception):
    """Base of every error of a store."""


class InvalidKeyError(StorageError):
    pass


class BlobNotFoundError(StorageError):
    def __init__(self) -> None:
        super().__init__("The file is no longer stored. Get the model's current files.")


class BlobChangedError(BlobNotFoundError):
    """An object in somebody else's hands is not what it was."""


class TooManyObjectsError(StorageError):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"There are more than {limit:,} objects below this prefix. Give the model a prefix of its own."
        )


class MultipartNotFoundError(StorageError):
    def __init__(self) -> None:
        super().__init__("This upload was cancelled or has expired; open a new one.")


class PartsMissingError(StorageError):
    """`numbers` are the parts still to be sent."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")  # noqa: PLR2004 - enough to act on
        super().__init__(f"{len(numbers)} part(s) are missing ({shown}); send them, then complete again.")


class PartRefusedError(StorageError):
    """The part was not stored. The client should send it again."""


class SizeMismatchError(PartRefusedError):
    def __init__(self, expected: int, *, more: bool) -> None:
        super().__init__(
            f"The part must have exactly {expected} bytes but had {'more' if more else 'fewer'}. Send it again."
        )


class ChecksumMismatchError(PartRefusedError):
    def __init__(self) -> None:
        super().__init__("The part was damaged in transit: its SHA-256 differs from the one announced. Send it again.")


class PartReplacedError(PartRefusedError):
    def __init__(self) -> None:
        super().__init__(
            "Another request is sending the same part, so this one stopped. If the same push runs twice, let "
            "one of them finish."
        )


class StorageFullError(StorageError, OutageError):
    outage: ClassVar[Outage] = Outage.DISK_FULL

    def __init__(self) -> None:
        super().__init__("The server's storage is full. Nothing was lost; try again when the operator has freed space.")


class StorageUnavailableError(StorageError, OutageError):
    outage: ClassVar[Outage] = Outage.STORAGE_AWAY


class OwnStorageError(StorageUnavailableError):
    """A project's own storage; the message names it, so that it is for members of that project only."""

    outage: ClassVar[Outage] = Outage.OWN_STORAGE_AWAY


class StorageRefusedError(OwnStorageError):
    """It answers, and refuses: trying again does not help until its owner has changed something."""


class HolderAwayError(StorageUnavailableError):
    """The machine that holds the files is not connected, or does not serve now. It passes without the platform."""

    outage: ClassVar[Outage] = Outage.HOLDER_AWAY

    def __init__(
        self,
        message: str = "The owner's machine is not connected. Try again when it is.",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageSettingError(StorageError):
    pass
