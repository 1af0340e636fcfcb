"""One S3 bucket through boto3: its settings, client, error translation and range reads."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from modelshare.server.storage.aws_session import open_session
from modelshare.server.storage.base import check_key
from modelshare.server.storage.own_bucket import NO_IDENTITY, OwnBucket
from modelshare.server.storage.pins import etag_of
from modelshare.server.storage_errors import (
    BlobChangedError,
    BlobNotFoundError,
    MultipartNotFoundError,
    OwnStorageError,
    StorageError,
    StorageFullError,
    StorageRefusedError,
    StorageSettingError,
    StorageUnavailableError,
)

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", re.ASCII)
_FORM = "The storage must have the form s3://BUCKET/PREFIX?endpoint=URL&region=NAME&addressing=path|virtual."
_READ_ATTEMPTS = 5
_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
_CODES: dict[str, type[BlobNotFoundError | MultipartNotFoundError | StorageFullError]] = {
    "404": BlobNotFoundError,  # a response to HEAD has no body with a more specific code
    "NoSuchKey": BlobNotFoundError,
    "NoSuchVersion": BlobNotFoundError,
    "412": BlobChangedError,  # as for 404
    "PreconditionFailed": BlobChangedError,
    "NoSuchUpload": MultipartNotFoundError,
    "InsufficientStorage": StorageFullError,
    "QuotaExceeded": StorageFullError,
    "XMinioStorageFull": StorageFullError,
}


@dataclass(frozen=True, slots=True)
class S3Options:
    """Location of the bucket: `s3://bucket/prefix?endpoint=https://…&region=…&addressing=path|virtual`."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    """None: AWS."""
    region: str | None = None
    """None: AWS_REGION, or the region of the profile, or us-east-1."""
    addressing: Literal["path", "virtual"] = "virtual"
    """`path` (the default if an endpoint is set) puts the bucket into the path instead of the host name."""

    @classmethod
    def parse(cls, url: str) -> "S3Options":
        """Raises StorageSettingError."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        endpoint, region = query.pop("endpoint", None), query.pop("region", None)
        addressing = query.pop("addressing", "path" if endpoint else "virtual")
        if (
            parts.scheme != "s3"
            or not _BUCKET.fullmatch(parts.netloc)
            or addressing not in {"path", "virtual"}
            or query
        ):
            raise StorageSettingError(_FORM)
        prefix = parts.path.strip("/")
        if prefix:
            check_key(prefix)
        return cls(parts.netloc, prefix, endpoint, region, "path" if addressing == "path" else "virtual")


def open_client(options: S3Options, own: OwnBucket | None = None) -> Any:
    """Returns a boto3 client, which is thread-safe. `own`: a project's bucket, instead of the platform's."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": options.addressing},
        # Newer checksums only where S3 itself requires them: other servers reject unknown ones.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": 5 if own is None else 3},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    with bucket_errors(own):
        if own is not None:
            return own.client(options, config)
        return open_session().client("s3", endpoint_url=options.endpoint, region_name=options.region, config=config)


@dataclass(frozen=True, slots=True)
class ObjectReader:
    client: Any
    where: Mapping[str, str]
    """Bucket and key, and which version."""
    size: int
    own: OwnBucket | None = None
    etag: str | None = None
    """What it has to have, where others can replace it."""

    def read_at(self, offset: int, length: int) -> bytes:
        span = range(offset, min(offset + length, self.size))
        if not span:
            return b""
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                return self._read(span)
            except (HTTPClientError, IncompleteReadError) as error:  # within the body, where botocore does not retry
                if attempt == _READ_ATTEMPTS:
                    raise StorageUnavailableError(
                        "The bucket closes connections before its responses are complete. Try again later."
                    ) from error
        raise AssertionError("the last attempt returns or raises")

    def _read(self, span: range) -> bytes:
        with bucket_errors(self.own):
            response = self.client.get_object(**self.where, Range=f"bytes={span.start}-{span.stop - 1}")
        with contextlib.closing(response["Body"]) as body:
            if self.etag is not None and etag_of(response) != self.etag:
                raise BlobChangedError
            if response["ContentLength"] != len(span):
                raise StorageUnavailableError(
                    "The bucket does not support range requests. Check the endpoint in the storage setting."
                )
            content: bytes = body.read()
        return content


@contextlib.contextmanager
def bucket_errors(own: OwnBucket | None = None) -> Iterator[None]:
    """Translates botocore's errors into ours. The originals name buckets and hosts, so they are kept only as the
    cause."""
    try:
        yield
    except ClientError as error:
        raise _translate(error, own) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        if own is not None:
            raise OwnStorageError(NO_IDENTITY) from error
        raise StorageUnavailableError("The server has no keys for its bucket. The operator should set them.") from error
    except (BotoCoreError, Boto3Error, OSError) as error:
        if own is not None:
            raise OwnStorageError(own.unreachable(error)) from error
        raise StorageUnavailableError("The bucket is not responding. Try again later.") from error


def _translate(error: ClientError, own: OwnBucket | None) -> StorageError:
    code = error.response["Error"]["Code"]
    storage_error = _CODES.get(code)
    if own is not None and storage_error in {None, StorageFullError}:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        is_refusal = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _BUSY
        return StorageRefusedError(own.rejected(code)) if is_refusal else OwnStorageError(own.failed(code))
    if storage_error is not None:
        return storage_error()
    return StorageUnavailableError("The bucket rejects the server. The operator should check its name, keys and clock.")
