"""A project's own storage: set it after a check, look at it, go back to the platform's."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.audit.service import Audit
from modelshare.server.db import notify
from modelshare.server.errors import ConflictError, InvalidRequestError
from modelshare.server.http import Caller
from modelshare.server.ids import new_id
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.storages import queries, rules
from modelshare.server.registry.storages.credentials import TOPIC, forget_unused
from modelshare.server.registry.storages.stores import RegistryPlatform, bucket_check, options_of, require_s3
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.storage.stores import PLATFORM
from modelshare.wire.errors import ErrorCode
from modelshare.wire.storage import BucketAccess, CheckStep, StepState, Storage, StorageSet

_HINT = 4
"""Characters of an access key's id that are shown."""


async def show(session: AsyncSession, caller: Caller, *, origin: str) -> Storage:
    """Where the project's new pushes go. `origin`: this platform's, for browsers."""
    return view(caller.project, await queries.current(session, caller.project), origin)


async def set_storage(platform: RegistryPlatform, caller: Caller, spec: StorageSet, *, origin: str) -> Storage:
    """Has new pushes go there, if the check finds everything that they need. What is stored elsewhere stays there."""
    require_s3()
    async with platform.database.read() as session:
        before = await queries.current(session, caller.project)
        row = _row(platform, caller, spec, before, await _known(session, platform, caller, spec))
    steps = await _check(platform, row, origin)
    require_working(steps)
    async with platform.database.write() as session:
        await blobs.lock_project(session, caller.project)
        stored = await _store(session, platform, caller, row, steps)
        audit = {"url": row.url, "endpoint": row.endpoint, "role_arn": row.role_arn, "relayed": not row.direct}
        _record(session, platform, caller, "storage.set", stored, **audit)
        await forget_unused(session, caller.project)
    return view(caller.project, stored, origin)


async def check(platform: RegistryPlatform, caller: Caller, *, origin: str) -> Storage:
    """Checks the storage again. 409 where the project has none of its own."""
    async with platform.database.read() as session:
        row = await queries.current(session, caller.project)
    if row is None:
        raise ConflictError("Your project uses the platform's storage, which its operator checks.")
    steps = await _check(platform, row, origin)
    async with platform.database.write() as session:
        stored = await queries.storage(session, row.id)
        if stored is None:
            raise ConflictError("The storage was just changed. Check it again.")
        stored.checked_at, stored.checks = platform.now(), [step.model_dump(mode="json") for step in steps]
    return view(caller.project, stored, origin)


async def unset(session: AsyncSession, platform: RegistryPlatform, caller: Caller) -> None:
    """New pushes go to the platform's storage. What lies in the bucket stays there and is read from there."""
    await blobs.lock_project(session, caller.project)
    row = await queries.current(session, caller.project, lock=True)
    if row is None:
        return
    row.replaced_at = platform.now()
    _record(session, platform, caller, "storage.unset", row, url=row.url)
    await forget_unused(session, caller.project)


def view(project_id: str, row: StorageRow | None, origin: str) -> Storage:
    external_id = rules.external_id(project_id)
    if row is None:
        return Storage(kind=PLATFORM, external_id=external_id)
    bucket, prefix = rules.split(row.url) or ("", "")
    steps = [CheckStep.model_validate(step) for step in row.checks]
    return Storage(
        kind=row.kind,
        url=row.url,
        endpoint=row.endpoint or None,
        region=row.region,
        addressing=row.addressing,
        access_key=f"…{row.key_hint}" if row.key_hint else None,
        role_arn=row.role_arn,
        external_id=external_id,
        relayed=not row.direct,
        created_at=row.created_at,
        checked_at=row.checked_at,
        is_working=all(step.state != StepState.FAILED for step in steps),
        checks=steps,
        iam_policy=rules.iam_policy(bucket, prefix),
        cors=rules.cors(origin),
    )


def check_endpoint(platform: RegistryPlatform, spec: BucketAccess) -> None:
    """Raises InvalidRequestError where the platform must not connect."""
    if spec.endpoint is not None:
        allow_private = platform.settings.storage_allow_private
        if refusal := rules.endpoint_refusal(spec.endpoint, allow_private=allow_private):
            raise InvalidRequestError(refusal, param="endpoint")


def take_identity(platform: RegistryPlatform, row: StorageRow, spec: BucketAccess) -> bool:
    """Gives the row the keys or the role that were sent; False if none were. It has its id and project."""
    row.role_arn = spec.role_arn
    if spec.access_key_id is not None and spec.secret_access_key is not None:
        platform.stores.seal(row, spec.access_key_id, spec.secret_access_key)
        row.key_hint = spec.access_key_id[-_HINT:]
        return True
    return spec.role_arn is not None


def require_working(steps: Sequence[CheckStep]) -> None:
    """Raises InvalidRequestError with what is missing."""
    if failed := next((step for step in steps if step.state == StepState.FAILED), None):
        granted = f" IAM action: {failed.action}." if failed.action else ""
        raise InvalidRequestError(
            f"Nothing was changed, since the check failed at `{failed.name}`: {failed.message}{granted}",
            code=ErrorCode.STORAGE_CHECK_FAILED,
        )


async def _known(
    session: AsyncSession, platform: RegistryPlatform, caller: Caller, spec: StorageSet
) -> StorageRow | None:
    """The project's row for this place. Raises InvalidRequest for a place that cannot be one."""
    place = rules.split(spec.url)
    if place is None:
        raise InvalidRequestError(
            "Write the bucket as s3://BUCKET/PREFIX, without empty parts, . and .. in the prefix.", param="url"
        )
    check_endpoint(platform, spec)
    return await queries.at(session, caller.project, rules.joined(*place), _endpoint(spec))


def _row(
    platform: RegistryPlatform, caller: Caller, spec: StorageSet, before: StorageRow | None, known: StorageRow | None
) -> StorageRow:
    """What is to be stored, apart from the session. Keys that are not given are kept where bucket and endpoint stay."""
    place = rules.split(spec.url) or ("", "")
    row = StorageRow(
        id=known.id if known else new_id(),
        project_id=caller.project,
        kind="bucket",
        url=rules.joined(*place),
        endpoint=_endpoint(spec),
        region=spec.region,
        addressing=spec.addressing or ("path" if spec.endpoint else "virtual"),
        direct=not spec.relayed,
        writable=True,
    )
    if not take_identity(platform, row, spec):
        if before is None or known is None or before.id != known.id or before.credentials is None:
            raise InvalidRequestError(
                "Send `access_key_id` and `secret_access_key`, or `role_arn`. Keys are kept only while bucket, prefix "
                "and endpoint stay the same.",
                param="secret_access_key",
            )
        row.credentials, row.key_hint = before.credentials, before.key_hint
    return row


async def _check(platform: RegistryPlatform, row: StorageRow, origin: str) -> list[CheckStep]:
    own = platform.stores.own_bucket(row)
    prober = bucket_check(options_of(row), own, origin=origin, direct=row.direct)
    return [CheckStep(**asdict(step)) for step in await asyncio.to_thread(prober.run)]


async def _store(
    session: AsyncSession, platform: RegistryPlatform, caller: Caller, row: StorageRow, steps: Sequence[CheckStep]
) -> StorageRow:
    before = await queries.current(session, caller.project, lock=True)
    known = await queries.at(session, caller.project, row.url, row.endpoint)
    if before is not None and (known is None or before.id != known.id):
        before.replaced_at = platform.now()
        notify(session, TOPIC, before.id.hex)
        await session.flush()  # a project has at most one at any instant
    if known is not None and known.id != row.id:
        raise ConflictError("The storage was just set by another request. Try again.")
    if known is None:
        row.created_at, row.revision = platform.now(), 1
        session.add(row)
        known = row
    else:
        for name in ("region", "addressing", "credentials", "key_hint", "role_arn", "direct", "writable"):
            setattr(known, name, getattr(row, name))
        known.revision += 1
        known.replaced_at = None
        for follower in await queries.following(session, known):
            platform.stores.follow(follower, known)
            follower.revision += 1
            notify(session, TOPIC, follower.id.hex)
    known.checked_at, known.checks = platform.now(), [step.model_dump(mode="json") for step in steps]
    await session.flush()
    return known


def _endpoint(spec: StorageSet) -> str:
    return (spec.endpoint or "").rstrip("/")


def _record(
    session: AsyncSession, platform: RegistryPlatform, caller: Caller, action: str, row: StorageRow, **details: Any
) -> None:
    Audit(session, row.project_id, caller.actor, platform.now()).done(action, f"storage:{row.id}", **details)
    notify(session, TOPIC, row.id.hex)
