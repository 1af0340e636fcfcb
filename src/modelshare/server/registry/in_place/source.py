"""Where a model lies, who the platform is there, and which of the objects are the model."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.errors import InvalidRequestError
from modelshare.server.http import Caller
from modelshare.server.ids import new_id
from modelshare.server.registry.archive_selection import choose
from modelshare.server.registry.inspection.reader import head
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.storages import queries, rules
from modelshare.server.registry.storages.service import check_endpoint, require_working, take_identity
from modelshare.server.registry.storages.stores import RegistryPlatform, bucket_check, options_of
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.storage.pins import Pin, pinned_key
from modelshare.server.storage_errors import BlobNotFoundError, TooManyObjectsError
from modelshare.wire.keys import Scope
from modelshare.wire.left_out import IGNORE_FILE, MAX_IGNORE_FILE, Selection, note, parse_ignore_file
from modelshare.wire.registering import ModelRegister
from modelshare.wire.storage import CheckStep

_FORM: Final = "Write the source as s3://BUCKET/PATH/TO/MODEL, without empty parts, . and .. in the path."
_ONE_FILE: Final = ".gguf"
"""A source that ends like this is a file; the others of its folder are not looked at."""


@dataclass(frozen=True, slots=True)
class Source:
    row: StorageRow
    """Of the model's folder; not in the database yet, if nothing was registered there before."""
    file: str | None
    """The only file of the folder that is meant; None: all."""
    is_changed: bool
    """Whether credentials or options differ from those in the database."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    path: str
    size: int
    etag: str


async def source_of(session: AsyncSession, platform: RegistryPlatform, caller: Caller, spec: ModelRegister) -> Source:
    """Who the platform is there: by the keys that were sent, else as before, else as in the project's storage.

    403 for a key that may only publish, unless the source is known or lies in the project's storage: what else the
    credentials reach is for those to publish who may set a storage.
    """
    place = rules.split(spec.source)
    if place is None:
        raise InvalidRequestError(_FORM, param="source")
    check_endpoint(platform, spec)
    bucket, prefix = place
    file = None
    if prefix.lower().endswith(_ONE_FILE) and not spec.source.endswith("/"):
        prefix, _, file = prefix.rpartition("/")
    url = rules.joined(bucket, prefix)
    brings_identity = spec.access_key_id is not None or spec.role_arn is not None
    current = await queries.current(session, caller.project) if not brings_identity else None
    endpoint = spec.endpoint.rstrip("/") if spec.endpoint else "" if brings_identity else None
    known = await queries.registered_at(session, caller.project, url, endpoint)
    like = known or current
    if endpoint is None:
        endpoint = like.endpoint if like is not None else ""
    current = current if current is not None and current.endpoint == endpoint else None
    if brings_identity or not (known or (current and rules.is_below(url, current.url))):
        caller.check(Scope.KEYS)
    like = known or current
    row = StorageRow(
        id=known.id if known else new_id(),
        project_id=caller.project,
        kind="bucket",
        url=url,
        endpoint=endpoint,
        region=spec.region or (like.region if like else None),
        addressing=spec.addressing or (like.addressing if like else "path" if endpoint else "virtual"),
        direct=not spec.relayed and (like is None or brings_identity or like.direct),
        writable=False,
        revision=1,
        created_at=platform.now(),
    )
    if not take_identity(platform, row, spec):
        _borrow_identity(platform, row, known, current)
    options = ("region", "addressing", "direct", "role_arn")
    is_changed = known is None or brings_identity or any(getattr(row, n) != getattr(known, n) for n in options)
    return Source(row, file, is_changed)


def _borrow_identity(
    platform: RegistryPlatform, row: StorageRow, known: StorageRow | None, current: StorageRow | None
) -> None:
    if known is not None:
        row.credentials, row.key_hint, row.role_arn = known.credentials, known.key_hint, known.role_arn
        row.credentials_of = known.credentials_of
    elif current is not None:
        platform.stores.follow(row, current)
    else:
        raise InvalidRequestError(
            "Send `access_key_id` and `secret_access_key`, or `role_arn`: your project has no storage at this endpoint "
            "whose credentials could be used.",
            param="secret_access_key",
        )


async def find_files(
    platform: RegistryPlatform, source: Source, spec: ModelRegister
) -> tuple[list[FoundFile], str | None]:
    """The files to publish, and a note on what lies beside them. Call it outside of transactions.

    Raises InvalidRequestError if the bucket cannot be read or holds no model, OwnStorageError.
    """
    store = await asyncio.to_thread(platform.stores.new, source.row)
    try:
        if source.file is not None:
            pin, size = await store.pin(source.file)
            found = [FoundFile(source.file, size, pin.etag)]
        else:
            found = [FoundFile(each.path, each.size, each.etag) for each in await store.find_all()]
        lines = await _ignore_lines(store, found)
    except BlobNotFoundError:
        found, lines = [], ()
    except TooManyObjectsError as error:
        raise InvalidRequestError(str(error), param="source") from error
    finally:
        if not store.direct:
            await store.close()
    if not found:
        raise InvalidRequestError(f"Nothing lies at {spec.source}. Check bucket and path.", param="source")
    try:
        files, left_out = await asyncio.to_thread(_chosen, found, lines, spec, platform.settings.models_allow_pickle)
    except ModelRejectedError as refused:
        raise InvalidRequestError(refused.reason, param="source") from refused
    return files, left_out


async def check(platform: RegistryPlatform, source: Source, files: Sequence[FoundFile]) -> list[dict[str, Any]]:
    """Reads a byte, as agents will. Raises InvalidRequestError with the right that is missing."""
    sample = next((file.path for file in files if file.size), None)
    if sample is None:
        return []
    own = platform.stores.own_bucket(source.row)
    prober = bucket_check(options_of(source.row), own, origin="", direct=source.row.direct)
    _, prefix = rules.split(source.row.url) or ("", "")
    found = await asyncio.to_thread(prober.run_reading, f"{prefix}/{sample}" if prefix else sample)
    steps = [CheckStep(**asdict(step)) for step in found]
    require_working(steps)
    return [step.model_dump(mode="json") for step in steps]


async def _ignore_lines(store: Any, found: Sequence[FoundFile]) -> Sequence[str]:
    file = next((each for each in found if each.path == IGNORE_FILE), None)
    if file is None:
        return ()
    reader = await asyncio.to_thread(store.reader, pinned_key(str(Pin(file.etag)), file.path))
    try:
        return parse_ignore_file(await asyncio.to_thread(head, reader, MAX_IGNORE_FILE + 1))
    except ValueError as error:
        raise InvalidRequestError(f"{error}. Write it again, and register again.", param="source") from error


def _chosen(
    found: Sequence[FoundFile], lines: Sequence[str], spec: ModelRegister, allow_pickle: bool
) -> tuple[list[FoundFile], str | None]:
    selection = Selection.of(ignored=lines, exclude=spec.exclude or (), include=spec.include or ())
    by_path = {file.path: file for file in found}
    paths, left_out = choose(by_path, selection, file=spec.file, allow_pickle=allow_pickle)
    return [by_path[path] for path in paths], note(left_out)
