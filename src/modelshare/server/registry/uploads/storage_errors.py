"""What the storage's errors mean to the client that sends parts."""

from collections.abc import Iterator
from contextlib import contextmanager

from modelshare.server.errors import ConflictError, InvalidRequestError, NotFoundError
from modelshare.server.storage import base
from modelshare.wire.errors import ErrorCode


@contextmanager
def storage_answers() -> Iterator[None]:
    """Answers the client instead of raising a StorageError; what is out of order is told by `errors`, as everywhere."""
    try:
        yield
    except base.InvalidKeyError as error:
        raise NotFoundError(str(error)) from error
    except base.ChecksumMismatchError as error:
        raise InvalidRequestError(str(error), code=ErrorCode.CHECKSUM_MISMATCH, param="X-Checksum-SHA256") from error
    except base.SizeMismatchError as error:
        raise InvalidRequestError(str(error)) from error
    except base.PartReplacedError as error:
        raise ConflictError(str(error), code=ErrorCode.PART_REPLACED) from error
    except (base.MultipartNotFoundError, base.BlobNotFoundError, base.PartsMissingError) as error:
        raise ConflictError(str(error), code=ErrorCode.UPLOAD_NOT_OPEN) from error
