"""Proves, call by call, that a project's bucket allows what the platform does there, and removes what it wrote."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from modelshare.server.storage.bucket import S3Options, open_client
from modelshare.server.storage.own_bucket import NO_IDENTITY, OwnBucket

_CONTENT: Final = b"hello world"
_PART: Final = 5 << 20
_SECONDS: Final = 300
_SKIPPED: Final = "skipped"
_UNKNOWN_KEY: Final = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "AuthFailure")


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    state: str
    message: str | None = None
    action: str | None = None


class _FailedError(Exception):
    """A step did not answer as it should; the message says how."""


class BucketCheck:
    """Blocks. Run it once."""

    def __init__(self, options: S3Options, own: OwnBucket, *, origin: str, direct: bool) -> None:
        """`origin`: of the platform's pages, from which browsers upload."""
        self._options = options
        self._own = own
        self._origin = origin
        self._direct = direct
        self._http = own.plain_http()
        name = f".modelshare-check-{secrets.token_hex(8)}"
        self._prefix = f"{options.prefix}/" if options.prefix else ""
        self._key, self._large = f"{self._prefix}{name}", f"{self._prefix}{name}-parts"
        self._uploads: list[str] = []
        self._steps: list[Step] = []
        self._client: Any = None

    def run(self) -> list[Step]:
        """Every step until the first that fails; those after it are `skipped`."""
        try:
            self._attempt_reaching()
            for name, action, work in (
                ("put", "s3:PutObject", self._put),
                ("get a range", "s3:GetObject", self._get),
                ("create a multipart upload", "s3:PutObject", self._create),
                ("put a part", "s3:PutObject", self._put_part),
                ("list parts", "s3:ListMultipartUploadParts", self._list_parts),
                ("complete the multipart upload", "s3:PutObject", self._complete),
                ("abort a multipart upload", "s3:AbortMultipartUpload", self._abort),
                ("list multipart uploads", "s3:ListBucketMultipartUploads", self._list_uploads),
                (_SIGNED_GET, "s3:GetObject", self._get_signed),
                ("delete", "s3:DeleteObject", self._delete),
            ):
                self._attempt(name, action, work)
            self._attempt_cors()
        finally:
            self._clean_up()
            self._http.clear()
        return self._steps

    def run_reading(self, key: str) -> list[Step]:
        """Whether the object `key`, which is not empty, can be read. Writes nothing."""
        try:
            self._attempt_reaching()
            self._attempt("get a range", "s3:GetObject", lambda: self._get_byte(key))
            self._attempt(_SIGNED_GET, "s3:GetObject", lambda: self._get_byte_signed(key))
        finally:
            self._http.clear()
        return self._steps

    def _attempt_reaching(self) -> None:
        self._attempt("connect", None, self._connect)
        self._attempt("list", "s3:ListBucket", self._list)

    @property
    def _failed(self) -> bool:
        return any(step.state == "failed" for step in self._steps)

    def _attempt(self, name: str, action: str | None, work: Callable[[], None]) -> None:
        if self._failed or (name == _SIGNED_GET and not self._direct):
            self._steps.append(Step(name, _SKIPPED))
            return
        message = None
        try:
            work()
        except ClientError as error:
            message = self._words(error, action)
        except (BotoCoreError, HTTPError, OSError) as error:
            known = type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}
            message = NO_IDENTITY if known else self._own.unreachable(error)
        except _FailedError as error:
            message = str(error)
        self._steps.append(Step(name, "ok") if message is None else Step(name, "failed", message, action))

    def _words(self, error: ClientError, action: str | None) -> str:
        code = str(error.response["Error"]["Code"])
        if code in _UNKNOWN_KEY:
            return "The bucket does not accept the access key. Check ID, secret, region and endpoint."
        if code == "NoSuchBucket":
            return f"There is no bucket {self._options.bucket} at this endpoint. Check its name and region."
        if error.operation_name == "AssumeRole":
            return (
                "The role cannot be assumed. Its trust policy must allow the platform with the project's external ID."
            )
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == HTTPStatus.FORBIDDEN and action is not None:
            return f"The bucket denies this. Grant {action} to the key or role."
        return self._own.rejected(code)

    def _connect(self) -> None:
        self._client = open_client(self._options, self._own)
        # Names the key before anything else, and no right: what it is allowed, the steps that follow tell.
        self._client._request_signer._credentials.get_frozen_credentials()  # noqa: SLF001 - a client shows them nowhere else

    def _list(self) -> None:
        self._client.list_objects_v2(Bucket=self._options.bucket, Prefix=self._prefix, MaxKeys=1)

    def _put(self) -> None:
        self._client.put_object(**self._at(self._key), Body=_CONTENT)

    def _get(self) -> None:
        body = self._client.get_object(**self._at(self._key), Range="bytes=6-10")["Body"]
        with contextlib.closing(body):
            _expect(body.read() == _CONTENT[6:], "The bucket does not support range requests.")

    def _create(self) -> None:
        for _ in range(2):
            self._uploads.append(self._client.create_multipart_upload(**self._at(self._large))["UploadId"])

    def _put_part(self) -> None:
        part = {**self._at(self._large), "UploadId": self._uploads[0], "PartNumber": 1}
        if not self._direct:
            self._client.upload_part(**part, Body=bytes(_PART))
            return
        url = self._client.generate_presigned_url("upload_part", Params=part, ExpiresIn=_SECONDS)
        answer = self._http.request("PUT", url, body=bytes(_PART), redirect=False)
        _expect(answer.status == HTTPStatus.OK, f"A signed URL was refused: HTTP {answer.status}. {_SIGNED}")

    def _list_parts(self) -> None:
        parts = self._client.list_parts(**self._at(self._large), UploadId=self._uploads[0]).get("Parts", [])
        _expect([part["Size"] for part in parts] == [_PART], "The bucket does not list the part that was stored.")
        self._etag = parts[0]["ETag"]

    def _complete(self) -> None:
        parts = {"Parts": [{"PartNumber": 1, "ETag": self._etag}]}
        self._client.complete_multipart_upload(
            **self._at(self._large), UploadId=self._uploads[0], MultipartUpload=parts
        )
        del self._uploads[0]

    def _abort(self) -> None:
        self._client.abort_multipart_upload(**self._at(self._large), UploadId=self._uploads[0])
        del self._uploads[0]

    def _list_uploads(self) -> None:
        self._client.list_multipart_uploads(Bucket=self._options.bucket, Prefix=self._prefix, MaxUploads=1)

    def _get_signed(self) -> None:
        data = self._fetched_by_url(self._key, "bytes=6-10")
        _expect(data == _CONTENT[6:], "The bucket does not support range requests.")

    def _get_byte(self, key: str) -> None:
        with contextlib.closing(self._client.get_object(**self._at(key), Range="bytes=0-0")["Body"]) as body:
            _expect(len(body.read(2)) == 1, "The bucket does not support range requests.")

    def _get_byte_signed(self, key: str) -> None:
        _expect(len(self._fetched_by_url(key, "bytes=0-0")) == 1, "The bucket does not support range requests.")

    def _fetched_by_url(self, key: str, span: str) -> bytes:
        url = self._client.generate_presigned_url("get_object", Params=self._at(key), ExpiresIn=_SECONDS)
        answer = self._http.request("GET", url, headers={"Range": span}, redirect=False, preload_content=False)
        # Not every server says 206 with its Content-Range.
        is_answered = answer.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}
        _expect(is_answered, f"A signed URL was refused: HTTP {answer.status}. {_SIGNED}")
        data = answer.read(len(_CONTENT))
        answer.close()
        return data

    def _delete(self) -> None:
        for key in (self._key, self._large):
            self._client.delete_object(**self._at(key))
        try:
            self._client.head_object(**self._at(self._key))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.NOT_FOUND:
                return
            raise
        raise _FailedError("The bucket still has an object that was deleted.")

    def _attempt_cors(self) -> None:
        """Browsers only: a missing rule is no failure."""
        if self._failed or not self._direct:
            self._steps.append(Step("uploads from browsers", _SKIPPED))
            return
        part = {**self._at(self._large), "UploadId": "cors", "PartNumber": 1}
        url = self._client.generate_presigned_url("upload_part", Params=part, ExpiresIn=_SECONDS)
        headers = {"Origin": self._origin, "Access-Control-Request-Method": "PUT"}
        try:
            answer = self._http.request("OPTIONS", url, headers=headers, redirect=False)
            origin = answer.headers.get("Access-Control-Allow-Origin", "")
            methods = answer.headers.get("Access-Control-Allow-Methods", "").upper()
            is_allowed = origin in {"*", self._origin} and ("PUT" in methods or methods.strip() == "*")
        except (HTTPError, OSError):
            is_allowed = False
        message = (
            f"The bucket's CORS rules do not let {self._origin} upload, so that pushes from browsers fail. Other "
            "pushes work."
        )
        name = "uploads from browsers"
        self._steps.append(Step(name, "ok") if is_allowed else Step(name, "warning", message, "s3:PutBucketCORS"))

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._options.bucket, "Key": key}

    def _clean_up(self) -> None:
        if self._client is None:
            return
        for upload in self._uploads:
            with _whatever():
                self._client.abort_multipart_upload(**self._at(self._large), UploadId=upload)
        if any(step.name == "delete" and step.state == "ok" for step in self._steps):
            return
        for key in (self._key, self._large):
            with _whatever():
                self._client.delete_object(**self._at(key))


_SIGNED_GET: Final = "get by a signed URL"
_SIGNED: Final = "Check the endpoint's host name, clock and proxies, or use the relayed mode."


def _expect(is_right: bool, otherwise: str) -> None:
    if not is_right:
        raise _FailedError(otherwise)


@contextlib.contextmanager
def _whatever() -> Iterator[None]:
    """Cleaning up has its own rights, whose lack a step has told of."""
    with contextlib.suppress(ClientError, BotoCoreError, HTTPError, OSError):
        yield
