"""Signing in with a password, changing it, and the operator's reset."""

import asyncio
import os
import subprocess
import time
from collections import Counter

import anyio.to_thread
import pytest
from argon2 import PasswordHasher

from clock import Clock
from modelshare.server.accounts import passwords, people
from modelshare.server.accounts.sign_in import SignIn
from modelshare.server.app import Application
from modelshare.server.errors import InvalidRequestError, RateLimitedError, UnauthenticatedError
from persons import new_person, sign_in
from programs import MODELSHARE

pytestmark = pytest.mark.anyio
PASSWORD = "Käse ﬁne 1234"
HASH = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash("Käse fine 1234")
"""With parameters of the past."""
HERE = "10.0.0.1"


@pytest.fixture
def costly_password_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the product makes them."""
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher())


@pytest.fixture
def desk(app: Application) -> SignIn:
    return app.platform.sign_in


async def test_however_it_is_typed(app: Application, desk: SignIn) -> None:
    person = await new_person(app, "ada", hashed=HASH)
    decomposed = "Ka\u0308se fine 1234"
    for email, password in (("ada@example.org", PASSWORD), (" ADA@Example.org", decomposed)):
        found, token = await desk.sign_in(email=email, password=password, address=HERE)
        assert found == person
        assert await app.platform.sessions.person(token) == person


async def test_a_hash_of_the_past_is_made_anew(app: Application, desk: SignIn) -> None:
    await new_person(app, "ada", hashed=HASH)
    await desk.sign_in(email="ada@example.org", password=PASSWORD, address=HERE)
    async with app.database.read() as session:
        found = await people.credentials(session, "ada@example.org")
    assert found is not None
    assert found[1].startswith("$argon2id$")
    assert not passwords.is_outdated(found[1])
    await desk.sign_in(email="ada@example.org", password=PASSWORD, address=HERE)


@pytest.mark.usefixtures("costly_password_hashes")
async def test_a_wrong_password_and_nobody_look_alike_and_take_as_long(app: Application, desk: SignIn) -> None:
    hashed = await passwords.hash_password(PASSWORD)
    await new_person(app, "ada", hashed=hashed)
    began = time.process_time()
    await passwords.verify("wrong password", hashed)
    one_hash = time.process_time() - began
    said, took = [], []
    for email in ("ada@example.org", "eve@example.org", "no address"):
        began = time.process_time()
        with pytest.raises(UnauthenticatedError) as raised:
            await desk.sign_in(email=email, password="wrong password", address=HERE)
        took.append(time.process_time() - began)
        said.append(raised.value.message)
    assert len(set(said)) == 1
    assert min(took) > one_hash / 4  # in the processor's time; a look without a hash takes a fiftieth


async def test_strangers_never_lock_the_rightful_person_out(app: Application, desk: SignIn) -> None:
    """A thousand wrong passwords from fifty addresses, at once; whoever knows the right one is in meanwhile."""
    person = await new_person(app, "ada", hashed=HASH)
    wrong = [
        asyncio.create_task(desk.sign_in(email=person.email, password="guess", address=f"10.0.{attempt % 50}.1"))
        for attempt in range(1000)
    ]
    await asyncio.sleep(0)
    found, _ = await desk.sign_in(email=person.email, password=PASSWORD, address="192.0.2.7")
    assert found == person
    waiting = [task for task in wrong if not task.done()]
    assert len(waiting) > 50, "before those who had tried more were even looked at"
    for task in waiting:
        task.cancel()
    ended = Counter(type(error) for error in await asyncio.gather(*wrong, return_exceptions=True))
    assert ended[RateLimitedError] == 50 * 5
    assert ended[UnauthenticatedError] == 50 * 15 - len(waiting)


async def test_attempts_of_an_address_on_one_person_are_limited(app: Application, desk: SignIn, clock: Clock) -> None:
    for name in ("eve", "ada"):
        await new_person(app, name, hashed=HASH)

    async def tries(email: str, address: str) -> None:
        with pytest.raises(UnauthenticatedError):
            await desk.sign_in(email=email, password="x", address=address)

    for _ in range(15):
        await tries("eve@example.org", HERE)
    with pytest.raises(RateLimitedError, match="Try again in") as raised:
        await desk.sign_in(email=" EVE@example.org", password="x", address=HERE)
    assert raised.value.retry_after == 6
    await tries("ada@example.org", HERE)
    await tries("eve@example.org", "10.0.1.1")
    clock.now += 6
    await tries("eve@example.org", HERE)


async def test_blanks_around_an_address_make_no_other_person_of_it(app: Application, clock: Clock) -> None:
    desk = SignIn(app.database, app.settings, clock)
    for blanks in range(15):
        desk._count(HERE, " " * (254 - blanks) + "eve@example.org")
    with pytest.raises(RateLimitedError):
        await desk.sign_in(email="eve@example.org", password="x", address=HERE)


async def test_attempts_from_one_address_are_limited_whoever_they_are_on(app: Application, clock: Clock) -> None:
    desk = SignIn(app.database, app.settings, clock)
    for attempt in range(45):
        desk._count(HERE, f"p{attempt}@example.org")
    with pytest.raises(RateLimitedError):
        await desk.sign_in(email="new@example.org", password="x", address=HERE)


async def test_attempts_from_one_network_of_ipv6_are_limited_together(app: Application, clock: Clock) -> None:
    desk = SignIn(app.database, app.settings, clock)
    for attempt in range(45):
        desk._count(f"2001:db8::{attempt:x}", f"p{attempt}@example.org")
    with pytest.raises(RateLimitedError):
        desk._count("2001:db8::ffff:1", "new@example.org")
    desk._count("2001:db8:0:1::1", "new@example.org")


async def test_a_change_of_password_signs_out_everywhere_else(app: Application, desk: SignIn) -> None:
    person = await new_person(app, "ada", hashed=HASH)
    book = app.platform.sessions
    here, elsewhere = await sign_in(app, person), await sign_in(app, person)
    assert await book.person(elsewhere)

    async def change(old: str, new: str) -> None:
        await desk.change_password(person, old=old, new=new, token=here, address=HERE)

    with pytest.raises(UnauthenticatedError):
        await change("wrong password", "a new password")
    with pytest.raises(InvalidRequestError):
        await change(PASSWORD, "short")
    assert await book.person(elsewhere)
    await change(PASSWORD, "a new password")
    assert await book.person(here)
    assert await book.person(elsewhere) is None
    with pytest.raises(UnauthenticatedError):
        await desk.sign_in(email=person.email, password=PASSWORD, address=HERE)
    await desk.sign_in(email=person.email, password="a new password", address=HERE)


async def test_who_signs_in_while_the_password_changes_is_not_in_by_the_old_one(app: Application) -> None:
    person = await new_person(app, "ada", hashed="new")
    async with app.database.write() as session:
        with pytest.raises(UnauthenticatedError, match="changed by another request"):
            await people.replace_hash(session, person.id, HASH, None)


async def test_the_operator_gives_a_new_password(app: Application, desk: SignIn, clock: Clock) -> None:
    person = await new_person(app, "ada", hashed=HASH)
    book = app.platform.sessions
    token = await sign_in(app, person)
    assert await book.person(token)

    async def reset(email: str, password: str) -> subprocess.CompletedProcess[str]:
        url = app.settings.database_url or ""
        words = [*MODELSHARE, "admin", "reset-password", email, "--data-dir", str(app.settings.data_dir)]
        environment = {**os.environ, "MODELSHARE_DATABASE_URL": url}
        return await anyio.to_thread.run_sync(
            lambda: subprocess.run(words, input=password, capture_output=True, text=True, check=False, env=environment)
        )

    wrong = await asyncio.gather(reset("eve@example.org", "a new password\n"), reset("ada@example.org", "short\n"))
    assert [one.returncode for one in wrong] == [1, 1]
    assert [one.stderr.count("\n") for one in wrong] == [1, 1]
    assert "no user with this e-mail" in wrong[0].stderr
    assert await book.person(token)
    done = await reset("Ada@Example.org", "a new password\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert "sessions have ended" in done.stderr
    clock.now += 1  # a SQLite server in another process hears nothing, and remembers for a second
    assert await book.person(token) is None
    await desk.sign_in(email=person.email, password="a new password", address=HERE)
