"""A bucket whose bytes pass through this server, for owners who forbid presigned URLs.

Parts stream to the bucket and files stream out of it, with at most some megabytes of memory each. Requests are signed
in their headers.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

import aiohttp
import yarl
from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest

from modelshare.server.public_addresses import public_socket
from modelshare.server.storage.base import Inflow, Multipart, Part, Proof
from modelshare.server.storage.bucket import bucket_errors
from modelshare.server.storage.own_bucket import DEFAULT_REGION, OwnBucket
from modelshare.server.storage.pins import etag_of
from modelshare.server.storage.s3 import BucketStore
from modelshare.server.storage.signed_urls import signed_link
from modelshare.server.storage_errors import (
    BlobNotFoundError,
    ChecksumMismatchError,
    MultipartNotFoundError,
    OwnStorageError,
    SizeMismatchError,
)

_AT_ONCE: Final = 8
"""Concurrent requests to the bucket for a list of uploads."""
_READ_BUFFER: Final = 256 << 10
_STALLED_SECONDS: Final = 60


class RelayedStore(BucketStore):
    direct: Literal[False] = False

    def __init__(self, own: OwnBucket, link_name: Callable[[str], str], secret: bytes, **options: Any) -> None:
        """`link_name`: what download links of this platform call a key. `secret` signs them."""
        super().__init__(own=own, **options)
        self._bucket_of = own
        self._link_name = link_name
        self._secret = secret
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def write_part(
        self, upload: Multipart, number: int, chunks: AsyncIterator[bytes] | Inflow, sha256: str | None
    ) -> Part:
        _, size = upload.span(number)
        query = {"partNumber": str(number + 1), "uploadId": upload.id}
        body = _Counted(chunks if isinstance(chunks, AsyncIterator) else _pieces(chunks), size, sha256)
        headers = {"Content-Length": str(size)}
        try:
            where = {"Key": self._name(upload.key)}
            async with self._request("PUT", where, query, headers, sha256, body) as response:
                if body.error is not None:
                    raise body.error
                if response.status == HTTPStatus.NOT_FOUND:
                    raise MultipartNotFoundError
                self._require_success(response)
        except OwnStorageError as error:
            raise body.error or error from error
        return Part(number, size, body.sha256)

    async def begin_all(self, wanted: Sequence[Multipart]) -> list[Multipart]:
        return await self._each(wanted, lambda each: self.begin(each.key, each.size, each.part_size))

    async def write_files(self, files: Sequence[tuple[Multipart, memoryview, str]]) -> None:
        async def write(file: tuple[Multipart, memoryview, str]) -> Part:
            upload, content, sha256 = file

            async def once() -> AsyncIterator[bytes]:
                yield bytes(content)

            return await self.write_part(upload, 0, once(), sha256)

        await self._each(files, write)

    async def list_parts(self, upload: Multipart) -> list[Part]:
        """Without digests: the bucket's ETags are not SHA-256."""
        return [replace(part, etag="") for part in await super().list_parts(upload)]

    async def list_parts_of(self, uploads: Sequence[Multipart]) -> list[list[Part]]:
        async def of(upload: Multipart) -> list[Part]:
            try:
                return await self.list_parts(upload)
            except MultipartNotFoundError:
                return []

        return await self._each(uploads, of)

    async def finish_all(self, uploads: Sequence[Multipart]) -> list[Proof | None]:
        await self._each(uploads, self.finish)
        return [None] * len(uploads)

    async def seal(self, uploads: Sequence[Multipart]) -> None:
        """A bucket cannot be sealed: processing reads everything again."""

    async def unseal(self, uploads: Sequence[Multipart]) -> None:
        """See `seal`."""

    def get_url(self, key: str, *, expires_at: int, base_url: str) -> str:
        return signed_link(base_url, self._link_name(key), expires_at, self._secret)

    @asynccontextmanager
    async def stream(self, method: str, key: str, range_: str | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """The bucket's response to GET or HEAD, 200, 206 or 416. Raises BlobNotFound."""
        where = self._object(key)
        headers = {"Range": range_} if range_ else {}
        if "IfMatch" in where:
            headers["If-Match"] = where["IfMatch"]
        async with self._request(method, where, {}, headers, hashlib.sha256().hexdigest(), None) as response:
            is_another = "IfMatch" in where and etag_of(response.headers) != etag_of({"ETag": where["IfMatch"]})
            if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED} or (
                response.ok and is_another
            ):
                raise BlobNotFoundError
            if response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._require_success(response)
            yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        where: Mapping[str, str],
        query: dict[str, str],
        headers: dict[str, str],
        sha256: str | None,
        body: AsyncIterator[bytes] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = await asyncio.to_thread(self._url, where, query)
        request = AWSRequest(method, url, headers)
        credentials = self._credentials().get_frozen_credentials()
        _Signer(credentials, self._options.region or DEFAULT_REGION, sha256).add_auth(request)
        sent = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        try:
            async with self._session().request(
                method, yarl.URL(url, encoded=True), headers=sent, data=body, allow_redirects=False
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise OwnStorageError(self._bucket_of.unreachable(error)) from error

    def _url(self, where: Mapping[str, str], query: dict[str, str]) -> str:
        """Also renews the credentials, if need be."""
        with bucket_errors(self._own):
            signed: str = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": where["Key"]}
            )
        if "VersionId" in where:
            query = query | {"versionId": where["VersionId"]}
        return urlsplit(signed)._replace(query=urlencode(query)).geturl()

    def _require_success(self, response: aiohttp.ClientResponse) -> None:
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise OwnStorageError(self._bucket_of.rejected(f"HTTP-{response.status}"))

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    use_dns_cache=False,
                    socket_factory=None if self._bucket_of.allow_private else public_socket,
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_STALLED_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_READ_BUFFER,
            )
        return self._http

    @staticmethod
    async def _each(wanted: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(each: Any) -> Any:
            async with room:
                return await work(each)

        return list(await asyncio.gather(*map(one, wanted)))


class _Signer(S3SigV4Auth):  # type: ignore[misc] # botocore has no types
    """Signs the digest that the client announced, so that the bucket itself rejects other bytes."""

    def __init__(self, credentials: Any, region: str, sha256: str | None) -> None:
        super().__init__(credentials, "s3", region)
        self._sha256 = sha256

    def payload(self, _request: AWSRequest) -> str:
        return self._sha256 or str(UNSIGNED_PAYLOAD)


class _Counted(AsyncIterator[bytes]):
    """The body of a part: exactly `size` bytes, hashed on the way. Raises SizeMismatch, ChecksumMismatch.

    A damaged part is never sent to its end, so that even a bucket that compares no digests does not store it.
    """

    def __init__(self, chunks: AsyncIterator[bytes], size: int, sha256: str | None) -> None:
        self._wanted = sha256
        self._chunks = chunks
        self._size = size
        self._seen = 0
        self._hash = hashlib.sha256()
        self.error: Exception | None = None
        """Why it ended early; aiohttp hides it."""

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def __anext__(self) -> bytes:
        try:
            return await self._next()
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.error = error
            raise

    async def _next(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            if self._seen < self._size:
                raise SizeMismatchError(self._size, more=False) from None
            raise
        self._seen += len(chunk)
        if self._seen > self._size:
            raise SizeMismatchError(self._size, more=True)
        await asyncio.to_thread(self._hash.update, chunk)
        if self._seen == self._size and self._wanted not in {None, self.sha256}:
            raise ChecksumMismatchError
        return chunk


async def _pieces(inflow: Inflow) -> AsyncIterator[bytes]:
    while await inflow.more():
        pieces = bytearray()
        await asyncio.to_thread(inflow.take, pieces.extend)
        yield bytes(pieces)
