"""Objects that somebody else keeps in a bucket: read where they lie as long as they are what they were, never written.

Not every server heeds `If-Match` (rclone's does not), so the ETag of every answer is compared as well.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from modelshare.server.storage.bucket import ObjectReader, bucket_errors
from modelshare.server.storage.pins import Pin, etag_of, split_key
from modelshare.server.storage.relayed import RelayedStore
from modelshare.server.storage.s3 import BucketStore, S3Store
from modelshare.server.storage_errors import (
    BlobChangedError,
    BlobNotFoundError,
    InvalidKeyError,
    OwnStorageError,
    StorageRefusedError,
    TooManyObjectsError,
)

MAX_LISTED: Final = 100_000
"""Objects below a prefix, those included that are no part of the model."""
_PAGE: Final = 1000
_FEW: Final = 32
"""Up to so many objects are asked for one by one; more are looked up in a listing before."""
_AT_ONCE: Final = 16
_PER_FILE: Final = 20
"""A listing is given up after so many objects per file that is looked for: asking for each costs as much then."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    path: str
    """Below the prefix."""
    size: int
    etag: str


class InPlaceStore(BucketStore):
    """Reads objects by `pinned_key`. Everything that would write raises InvalidKeyError."""

    _reads_versions: bool | None = None
    """Whether the bucket lets the platform read versions; None: not tried yet."""

    async def find_all(self) -> list[FoundObject]:
        """All objects below the prefix, without markers of folders. Raises TooManyObjectsError."""
        return await asyncio.to_thread(lambda: list(self._found()))

    async def pin(self, path: str, etag: str | None = None) -> tuple[Pin, int]:
        """Pins the present object, which must have this ETag; also returns its size. Raises BlobNotFoundError."""
        return await asyncio.to_thread(self._pin, path, etag)

    async def changes(self, keys: Sequence[str]) -> dict[str, str]:
        proven = await asyncio.to_thread(self._listed, keys) if len(keys) > _FEW else set()
        room = asyncio.Semaphore(_AT_ONCE)

        async def change(key: str) -> tuple[str, str | None]:
            async with room:
                return key, await asyncio.to_thread(self._change, key)

        found = await asyncio.gather(*(change(key) for key in keys if key not in proven))
        return {key: what for key, what in found if what is not None}

    def reader(self, key: str) -> ObjectReader:
        pin, _ = split_key(key)
        where = {"Bucket": self._bucket, **self._object(key)}
        head = self._head(where)
        if etag_of(head) != pin.etag:
            raise BlobChangedError
        return ObjectReader(self._client, where, head["ContentLength"], self._own, pin.etag)

    def _name(self, key: str) -> str:
        raise InvalidKeyError(f"The bucket of {key!r} is its owner's; the platform never writes there.")

    def _object(self, key: str) -> dict[str, str]:
        pin, path = split_key(key)
        is_still = {"VersionId": pin.version} if pin.version is not None else {"IfMatch": f'"{pin.etag}"'}
        return {"Key": self._prefix + path, **is_still}

    def _found(self) -> Iterator[FoundObject]:
        for number, entry in enumerate(self._entries("list_objects_v2", "Contents")):
            if number >= MAX_LISTED:
                raise TooManyObjectsError(MAX_LISTED)
            path = entry["Key"].removeprefix(self._prefix)
            if path and not (path.endswith("/") and not entry["Size"]):
                yield FoundObject(path, entry["Size"], etag_of(entry))

    def _entries(self, operation: str, field: str) -> Iterator[dict[str, Any]]:
        with bucket_errors(self._own):
            for page in self._client.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=self._prefix):
                yield from page.get(field, ())

    def _pin(self, path: str, etag: str | None) -> tuple[Pin, int]:
        where = {"Bucket": self._bucket, "Key": self._prefix + path}
        head = self._head(where | ({"IfMatch": f'"{etag}"'} if etag is not None else {}))
        found = etag_of(head)
        if not found:
            raise StorageRefusedError("The bucket sends no ETags, so changes of its files could not be noticed.")
        if etag not in {None, found}:
            raise BlobChangedError
        version = head.get("VersionId")
        if version in {None, "null"} or not self._may_read_versions(where | {"VersionId": version}):
            version = None
        return Pin(found, version), head["ContentLength"]

    def _may_read_versions(self, where: dict[str, str]) -> bool:
        """Needs s3:GetObjectVersion and s3:ListBucketVersions; without them objects are pinned by their ETags.

        Without the latter each grant would have to ask for each file of the model.
        """
        if self._reads_versions is None:
            try:
                with bucket_errors(self._own):
                    self._client.head_object(**where)
                    self._client.list_object_versions(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
                self._reads_versions = True
            except OwnStorageError as error:
                if not isinstance(error.__cause__, ClientError):
                    raise
                self._reads_versions = False
        return self._reads_versions

    def _head(self, where: dict[str, str]) -> Any:
        try:
            with bucket_errors(self._own):
                return self._client.head_object(**where)
        except BlobChangedError:
            raise
        except BlobNotFoundError:
            self._require_bucket()
            raise

    def _change(self, key: str) -> str | None:
        try:
            self.reader(key)
        except BlobChangedError:
            return "was replaced"
        except BlobNotFoundError:
            return "is no longer there"
        return None

    def _listed(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that a listing shows unchanged. Says nothing about others: see `_change`."""
        wanted = {(self._prefix + path, pin.etag, pin.version): key for key in keys for pin, path in [split_key(key)]}
        is_versioned = any(version is not None for _, _, version in wanted)
        operation, field = ("list_object_versions", "Versions") if is_versioned else ("list_objects_v2", "Contents")
        seen = set[tuple[str, str, str | None]]()
        with contextlib.suppress(OwnStorageError):  # a right may be gone; then they are asked for one by one
            for number, entry in enumerate(self._entries(operation, field)):
                if len(seen) == len(wanted) or number > _PER_FILE * len(wanted) + _PAGE:
                    break
                version = entry.get("VersionId") if is_versioned else None
                if (which := (entry["Key"], etag_of(entry), version)) in wanted:
                    seen.add(which)
        return {wanted[which] for which in seen}


class DirectInPlaceStore(InPlaceStore, S3Store):
    pass


class RelayedInPlaceStore(InPlaceStore, RelayedStore):
    pass
