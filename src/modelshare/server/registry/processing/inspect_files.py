"""Inspects the files of a version, and verifies that they are unchanged."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from modelshare.server.http import Platform
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.concurrency import map_concurrently
from modelshare.server.registry.inspection import Facts, inspect
from modelshare.server.registry.inspection.reader import RangeReader, head
from modelshare.server.registry.processing.store_blobs import FILES_AT_ONCE
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.tables import DAMAGED
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage_errors import BlobChangedError, BlobNotFoundError
from modelshare.wire import secret_scan, signing

_OPENED_AT_ONCE: Final = 8
"""A bucket is asked for each file."""
_SEARCHED_BYTES: Final = 64 << 20
"""Limit of text searched for secrets; 2 MiB may take a second in the worst case."""


async def verify_files(platform: Platform, project_id: str, files: Sequence[StoredFile]) -> None:
    """Reads all files again and stores when. Raises ModelRejectedError for the first that is missing or has changed."""

    async def verify_file(file: StoredFile) -> None:
        try:
            found = await (await platform.stores.get(file.storage)).digest(file.key)
        except BlobNotFoundError as error:
            raise _missing(file, error) from error
        if found != (file.sha256, file.size):
            if file.pin is None:
                async with platform.database.write() as session:
                    await blobs.prove(session, project_id, file.storage, [file.sha256], DAMAGED)
            what = "has been damaged in storage" if file.pin is None else "is not what was published"
            raise ModelRejectedError(f"{printable(file.path)} {what}. Restore it there, or {_again(file)}.")

    started = platform.now()
    await map_concurrently(verify_file, files, limit=FILES_AT_ONCE)
    async with platform.database.write() as session:
        for storage in sorted({file.storage for file in files}):
            digests = [file.sha256 for file in files if file.storage == storage]
            await blobs.prove(session, project_id, storage, digests, started)


async def inspect_files(platform: Platform, files: Sequence[StoredFile], file: str | None) -> Facts:
    """The facts about the model in these files; if there are several, about the one that `file` selects.

    Raises ModelRejectedError if it cannot be published.
    """
    stores = {storage: await platform.stores.get(storage) for storage in {each.storage for each in files}}
    parts = [files[start::_OPENED_AT_ONCE] for start in range(_OPENED_AT_ONCE)]
    opened = await asyncio.gather(*(asyncio.to_thread(_open, stores, part) for part in parts if part))
    readers = {path: reader for part in opened for path, reader in part.items()}
    in_order = {each.path: readers[each.path] for each in files}
    return await asyncio.to_thread(_inspect, in_order, platform.settings.models_allow_pickle, file)


async def read_signature(platform: Platform, files: Sequence[StoredFile]) -> bytes | None:
    """The signature among the files. One that is too long to be one is cut, and so is refused as such."""
    signature = next((file for file in files if file.path == signing.SIGNATURE_FILE), None)
    if signature is None:
        return None
    store = await platform.stores.get(signature.storage)
    try:
        reader = await asyncio.to_thread(store.reader, signature.key)
    except BlobNotFoundError as error:
        raise _missing(signature, error) from error
    return await asyncio.to_thread(head, reader, signing.MAX_BUNDLE + 1)


def _inspect(readers: Mapping[str, RangeReader], allow_pickle: bool, file: str | None) -> Facts:
    facts = inspect(readers, allow_pickle=allow_pickle, file=file)
    return replace(facts, warnings=(*facts.warnings, *secret_scan.warnings(_exposed(readers))))


def _open(stores: Mapping[str, BlobStore], files: Sequence[StoredFile]) -> dict[str, RangeReader]:
    readers: dict[str, RangeReader] = {}
    for stored in files:
        try:
            readers[stored.path] = stores[stored.storage].reader(stored.key)
        except BlobNotFoundError as error:
            raise _missing(stored, error) from error
    return readers


def _exposed(readers: Mapping[str, RangeReader]) -> list[secret_scan.ExposedSecret]:
    """Suspected secrets in small text files, within limits of size and number."""
    texts = [path for path, reader in sorted(readers.items()) if secret_scan.is_scannable(path, reader.size)]
    found: list[secret_scan.ExposedSecret] = []
    left = _SEARCHED_BYTES
    for path in texts[: secret_scan.MAX_FILES]:
        left -= readers[path].size
        if left < 0 or len(found) >= secret_scan.MAX_FOUND:
            break
        found += secret_scan.find(path, head(readers[path], secret_scan.MAX_FILE))
    return found[: secret_scan.MAX_FOUND]


def _missing(file: StoredFile, error: BlobNotFoundError) -> ModelRejectedError:
    what = "was replaced" if isinstance(error, BlobChangedError) else "is no longer in storage"
    return ModelRejectedError(f"{printable(file.path)} {what}. Restore it there, or {_again(file)}.")


def _again(file: StoredFile) -> str:
    return "push it again" if file.pin is None else "publish what is there as a new version"
