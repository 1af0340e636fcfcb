"""What a process remembers of keys: never what is from before a change that it has heard of."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from clock import Clock
from conftest import Tenant
from modelshare.server.accounts import service as accounts
from modelshare.server.accounts.key_auth import KEYS_TOPIC, KeyAuthenticator, KeyUse
from modelshare.server.app import Application
from modelshare.server.cache import CACHE_SECONDS
from modelshare.server.db import Database, notify
from modelshare.server.http import Caller
from modelshare.server.ids import secret_hash
from modelshare.server.settings import Settings
from slow_database import SlowDatabase

pytestmark = pytest.mark.anyio
HERE = "127.0.0.1"


@pytest.fixture
async def database(app: Application, settings: Settings) -> AsyncIterator[SlowDatabase]:
    database = SlowDatabase(settings.database)
    yield database
    await database.close()


@pytest.fixture
def ring(database: SlowDatabase, app: Application) -> KeyAuthenticator:
    return KeyAuthenticator(database, app.platform.clock)


async def revoke(database: Database, caller: Caller, now: int) -> None:
    async with database.write() as session:
        await accounts.revoke_key(session, caller, str(caller.key_id), now=now)


async def test_a_look_that_began_before_a_revocation_is_not_believed_after_it(
    app: Application, owner: Tenant, database: SlowDatabase, ring: KeyAuthenticator
) -> None:
    caller = await ring.authenticate(owner.project.api_key, HERE)
    assert caller is not None
    database.drop_everything()
    with database.held() as held:
        asked = asyncio.ensure_future(ring.authenticate(owner.project.api_key, HERE))
        await held.wait()  # it has read the key as it was
        await revoke(database, caller, app.platform.now())
    assert await asked is None
    assert await ring.authenticate(owner.project.api_key, HERE) is None


async def test_a_look_during_the_change_of_another_key_needs_no_second(
    app: Application, owner: Tenant, deployer: Tenant, database: SlowDatabase, ring: KeyAuthenticator
) -> None:
    other = await ring.authenticate(deployer.project.api_key, HERE)
    assert other is not None
    with database.held() as held:
        asked = asyncio.ensure_future(ring.authenticate(owner.project.api_key, HERE))
        await held.wait()
        await revoke(database, other, app.platform.now())
    reads = database.reads
    assert await asked is not None
    assert database.reads == reads


async def test_a_key_that_never_stops_changing_is_answered_from_the_last_look_and_not_remembered(
    owner: Tenant, database: SlowDatabase, ring: KeyAuthenticator
) -> None:
    caller = await ring.authenticate(owner.project.api_key, HERE)
    assert caller is not None
    database.drop_everything()

    async def change() -> None:
        async with database.write() as session:
            notify(session, KEYS_TOPIC, str(caller.key_id))

    database.after_read = change
    assert await ring.authenticate(owner.project.api_key, HERE) is not None
    looks = database.reads
    assert await ring.authenticate(owner.project.api_key, HERE) is not None
    assert database.reads > looks


async def test_what_a_lost_notification_would_have_told_is_seen_after_a_second(
    app: Application, owner: Tenant, ring: KeyAuthenticator, settings: Settings, clock: Clock
) -> None:
    caller = await ring.authenticate(owner.project.api_key, HERE)
    assert caller is not None
    deaf = Database(settings.database)  # what is written here is notified to nobody who listens
    await revoke(deaf, caller, app.platform.now())
    await deaf.close()
    assert await ring.authenticate(owner.project.api_key, HERE) is not None
    clock.now += CACHE_SECONDS
    assert await ring.authenticate(owner.project.api_key, HERE) is None


async def test_uses_that_are_over_are_found_in_one_look(
    app: Application, owner: Tenant, deployer: Tenant, database: SlowDatabase, ring: KeyAuthenticator, clock: Clock
) -> None:
    made = {}
    wishes: dict[str, dict[str, object]] = {
        "good": {},
        "revoked": {},
        "expired": {"expires_in": 10},
        "here only": {"allowed_ips": ["127.0.0.0/8"]},
    }
    for name, fields in wishes.items():
        made[name] = (await owner.http.post("/v1/keys", json={"name": name, **fields})).json()
    await owner.http.delete(f"/v1/keys/{made['revoked']['id']}")
    clock.now += 10
    uses = {name: KeyUse(secret_hash(key["key"]), HERE) for name, key in made.items()}
    uses["unknown"] = KeyUse(secret_hash("ms_acme_nonsense"), HERE)
    uses["elsewhere"] = KeyUse(uses["here only"].value_hash, "10.0.0.1")
    reads = database.reads
    over = await ring.revoked_among(uses.values())
    assert database.reads == reads + 1
    assert {name for name, use in uses.items() if use in over} == {"revoked", "expired", "unknown", "elsewhere"}
