"""What the storage's errors mean to the client that sends parts."""

from collections.abc import Iterator
from contextlib import contextmanager

from modelshare.server.errors import Conflict, InvalidRequest, NotFound
from modelshare.server.storage import base
from modelshare.wire.errors import ErrorCode


@contextmanager
def storage_answers() -> Iterator[None]:
    """Answers the client instead of raising a StorageError; what is out of order is told by `errors`, as everywhere."""
    try:
        yield
    except base.InvalidKey as error:
        raise NotFound(str(error)) from error
    except base.ChecksumMismatch as error:
        raise InvalidRequest(str(error), code=ErrorCode.CHECKSUM_MISMATCH, param="X-Checksum-SHA256") from error
    except base.SizeMismatch as error:
        raise InvalidRequest(str(error)) from error
    except base.PartReplaced as error:
        raise Conflict(str(error), code=ErrorCode.PART_REPLACED) from error
    except (base.MultipartNotFound, base.BlobNotFound, base.PartsMissing) as error:
        raise Conflict(str(error), code=ErrorCode.UPLOAD_NOT_OPEN) from error
