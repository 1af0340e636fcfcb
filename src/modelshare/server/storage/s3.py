"""A blob store in an S3-compatible bucket: AWS, MinIO, Cloudflare R2, Google Cloud Storage through its S3 API.

Clients exchange bytes directly with the bucket, by presigned URLs; this server only signs, lists and verifies.
Credentials are found the usual AWS way (AWS_ACCESS_KEY_ID, profiles, instance roles). Why boto3:
docs/decisions/0003-s3-client.md.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from modelshare import private_files
from modelshare.server.storage.base import Assembled, Multipart, Part, SignedPut, check_key
from modelshare.server.storage.bucket import ObjectReader, S3Options, bucket_errors, open_client
from modelshare.server.storage.digest import sha256_of
from modelshare.server.storage.own_bucket import OwnBucket, RoleCredentials
from modelshare.server.storage.stores import StorageContext
from modelshare.server.storage_errors import BlobNotFoundError, MultipartNotFoundError, PartsMissingError
from modelshare.wire.uploads import md5_of_parts

LONGEST_LINK = 7 * 24 * 3600
"""Seconds; the maximum of Signature Version 4 (AWS, "Authenticating requests: using query parameters")."""
_BEFORE_END = 60
"""Seconds before the end of a session at which the last of its URLs expire."""
_RENEWAL_WINDOW = 15 * 60 + 1
"""Seconds before the end of a session from which botocore renews it while it signs, which would block."""
_HASH_STEP = 8 << 20
_MD5 = re.compile("[0-9a-f]{32}")
_HASH_AHEAD = 4
"""Concurrent reads: a single download from a bucket is much slower than hashing."""
_ADDRESSES = 256
"""Objects whose addresses are remembered: botocore takes a millisecond for each, and a large file has many parts."""


def open_bucket(url: str, context: StorageContext) -> "S3Store":
    """Raises StorageSettingError."""
    return S3Store(S3Options.parse(url), scratch=context.data_dir / "scratch", clock=context.clock)


class BucketStore:
    """What direct and relayed buckets have in common."""

    def __init__(
        self,
        options: S3Options,
        *,
        scratch: Path,
        clock: Callable[[], float] = time.time,
        own: OwnBucket | None = None,
    ) -> None:
        """`scratch` is a folder for temporary local copies. `own`: a project's bucket, instead of the platform's."""
        self._options = options
        self._own = own
        self._bucket = options.bucket
        self._prefix = f"{options.prefix}/" if options.prefix else ""
        self._scratch = scratch
        self._clock = clock
        self._client = open_client(options, own)

    async def renew(self) -> None:
        """Sees to it that signing does not have to wait for new credentials. Call it before."""
        credentials = self._credentials()
        if isinstance(credentials, RoleCredentials) and credentials.seconds_left() < _RENEWAL_WINDOW:
            with bucket_errors(self._own):
                await asyncio.to_thread(credentials.get_frozen_credentials)

    async def begin(self, key: str, size: int, part_size: int) -> Multipart:
        answer = await self._call(
            "create_multipart_upload", Key=self._name(key), ContentType="application/octet-stream"
        )
        return Multipart(key, answer["UploadId"], size, part_size)

    async def list_parts(self, upload: Multipart) -> list[Part]:
        return await asyncio.to_thread(self._list_parts, upload)

    async def finish(self, upload: Multipart) -> Assembled | None:
        """Returns no proof, since the bytes did not pass through this server."""
        return await asyncio.to_thread(self._finish, upload)

    async def abort(self, upload: Multipart) -> None:
        await asyncio.to_thread(self._abort, upload)

    async def put_file(self, key: str, path: Path) -> None:
        await asyncio.to_thread(self._upload, self._name(key), path)
        await asyncio.to_thread(path.unlink)

    async def require_space(self, size: int) -> None:
        """Does nothing: a bucket has no size limit."""

    async def digest(
        self,
        key: str,
        *,
        progress: Callable[[int], None] | None = None,
        also: Callable[[bytes], None] | None = None,
    ) -> tuple[str, int]:
        reader = await asyncio.to_thread(self.reader, key)
        return await sha256_of(reader, step=_HASH_STEP, ahead=_HASH_AHEAD, progress=progress, also=also)

    def reader(self, key: str) -> ObjectReader:
        where = {"Bucket": self._bucket, **self._object(key)}
        try:
            with bucket_errors(self._own):
                head = self._client.head_object(**where)
        except BlobNotFoundError:
            self._require_bucket()
            raise
        return ObjectReader(self._client, where, head["ContentLength"], self._own)

    @contextlib.asynccontextmanager
    async def local_copy(self, key: str) -> AsyncIterator[Path]:
        private_files.folder(self._scratch)
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            path = Path(folder) / "blob"
            await asyncio.to_thread(self._download, self._name(key), path)
            yield path

    async def check(self) -> None:
        await self._call("list_objects_v2", Prefix=self._prefix, MaxKeys=1)

    async def delete(self, key: str) -> None:
        await self._call("delete_object", Key=self._name(key))

    async def delete_prefix(self, prefix: str) -> None:
        await asyncio.to_thread(self._delete_prefix, f"{self._name(prefix)}/")

    def _credentials(self) -> Any:
        return self._client._request_signer._credentials  # noqa: SLF001 - a client shows them nowhere else

    def _name(self, key: str) -> str:
        """What the platform writes."""
        return self._prefix + check_key(key)

    def _object(self, key: str) -> dict[str, str]:
        """What is read."""
        return {"Key": self._name(key)}

    def _require_bucket(self) -> None:
        """Raises if the bucket itself is missing, which looks like a missing object in a response to HEAD."""
        with bucket_errors(self._own):
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)

    async def _call(self, operation: str, **params: Any) -> Any:
        with bucket_errors(self._own):
            return await asyncio.to_thread(getattr(self._client, operation), Bucket=self._bucket, **params)

    def _list_parts(self, upload: Multipart) -> list[Part]:
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=self._name(upload.key), UploadId=upload.id
        )
        with bucket_errors(self._own):
            found = [part for page in pages for part in page.get("Parts", ())]
        parts = (Part(part["PartNumber"] - 1, part["Size"], part["ETag"]) for part in found)
        return [part for part in parts if part.number < upload.count and part.size == upload.span(part.number)[1]]

    def _finish(self, upload: Multipart) -> Assembled | None:
        try:
            parts = self._list_parts(upload)
        except MultipartNotFoundError:
            # An earlier call finished it, but its response was lost.
            with contextlib.suppress(BlobNotFoundError):
                if self.reader(upload.key).size == upload.size:
                    return None
            raise
        stored = {part.number for part in parts}
        if missing := [number for number in range(upload.count) if number not in stored]:
            raise PartsMissingError(missing)
        where = {"Bucket": self._bucket, "Key": self._name(upload.key)}
        with bucket_errors(self._own):
            if not parts:  # S3 cannot complete an upload without parts
                self._client.put_object(**where, Body=b"")
                self._client.abort_multipart_upload(**where, UploadId=upload.id)
                return None
            listed = [{"PartNumber": part.number + 1, "ETag": part.etag} for part in parts]
            # It names the ETags, so that the bucket refuses parts that were replaced since they were listed.
            self._client.complete_multipart_upload(**where, UploadId=upload.id, MultipartUpload={"Parts": listed})
        etags = [part.etag.strip('"') for part in parts]
        if not all(map(_MD5.fullmatch, etags)):
            return None
        return Assembled(md5_of_parts(map(bytes.fromhex, etags)))

    def _abort(self, upload: Multipart) -> None:
        with contextlib.suppress(MultipartNotFoundError), bucket_errors():
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._name(upload.key), UploadId=upload.id)

    def _upload(self, name: str, path: Path) -> None:
        with bucket_errors(self._own):
            self._client.upload_file(str(path), self._bucket, name)

    def _download(self, name: str, path: Path) -> None:
        with bucket_errors(self._own):
            self._client.download_file(self._bucket, name, str(path))

    def _delete_prefix(self, prefix: str) -> None:
        where = {"Bucket": self._bucket, "Prefix": prefix}
        with bucket_errors(self._own):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(**where):
                for upload in page.get("Uploads", ()):
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            # One by one: Google's S3 API does not have DeleteObjects, and a model has few files.
            for page in self._client.get_paginator("list_objects_v2").paginate(**where):
                for entry in page.get("Contents", ()):
                    self._client.delete_object(Bucket=self._bucket, Key=entry["Key"])


class _Address(NamedTuple):
    """Of an object: its URL without a query, and the region that a signature names."""

    url: str
    region: str


class S3Store(BucketStore):
    direct: Literal[True] = True

    def __init__(self, options: S3Options, **others: Any) -> None:
        super().__init__(options, **others)
        self._address = functools.lru_cache(_ADDRESSES)(self._find_address)

    @property
    def origin(self) -> str:
        url = urlsplit(self._address(f"{self._prefix}origin").url)
        return f"{url.scheme}://{url.netloc}"

    async def put_part(self, upload: Multipart, number: int, content: bytes) -> Part:
        md5 = await asyncio.to_thread(hashlib.md5, content, usedforsecurity=False)
        answer = await self._call(
            "upload_part",
            Key=self._name(upload.key),
            UploadId=upload.id,
            PartNumber=number + 1,
            Body=content,
            ContentMD5=base64.b64encode(md5.digest()).decode(),
        )
        return Part(number, len(content), answer["ETag"])

    def part_url(self, upload: Multipart, number: int, *, expires_at: int, md5: str | None = None) -> SignedPut:
        _, size = upload.span(number)
        headers = {"Content-Length": str(size)}  # signed, so the bucket rejects any other length
        if md5 is not None:
            headers["Content-MD5"] = base64.b64encode(bytes.fromhex(md5)).decode()
        address, seconds = self._address(self._name(upload.key)), self._seconds(expires_at)
        query = urlencode({"partNumber": number + 1, "uploadId": upload.id})
        request = AWSRequest("PUT", f"{address.url}?{query}", dict(headers))
        with bucket_errors(self._own):
            credentials = self._credentials().get_frozen_credentials()
            S3SigV4QueryAuth(credentials, "s3", address.region, expires=seconds).add_auth(request)
        return SignedPut(request.url, headers, int(self._clock()) + seconds)

    def get_url(self, key: str, *, expires_at: int, base_url: str) -> str:  # noqa: ARG002 - the bucket has its own address
        where = {
            name: value for name, value in self._object(key).items() if name != "IfMatch"
        }  # a header of its reader
        return self._sign(self._seconds(expires_at), **where, ResponseContentDisposition="attachment")

    def _find_address(self, name: str) -> _Address:
        url = urlsplit(self._sign(1, Key=name))
        _, _, region, _, _ = parse_qs(url.query)["X-Amz-Credential"][0].rsplit("/", 4)
        return _Address(url._replace(query="").geturl(), region)

    def _sign(self, seconds: int, **params: str) -> str:
        with bucket_errors(self._own):
            url: str = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, **params}, ExpiresIn=seconds
            )
        return url

    def _seconds(self, expires_at: int) -> int:
        """How long a URL is valid: never longer than the session that signs it, whatever the URL says."""
        seconds = min(max(1, expires_at - int(self._clock())), LONGEST_LINK)
        credentials = self._credentials()
        if isinstance(credentials, RoleCredentials):
            seconds = min(seconds, max(1, int(credentials.seconds_left()) - _BEFORE_END))
        return seconds
