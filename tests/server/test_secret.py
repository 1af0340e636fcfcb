"""The platform has one secret: nobody can guess it, and no other one ever takes its place unasked."""

import asyncio
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from conftest import new_tenant
from modelshare.server import recovery, secret, startup
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings, SettingsError, load

pytestmark = pytest.mark.anyio
GUESSABLE = [
    b"",
    b" " * 64,
    b"\0" * 32,
    b"0" * 64,
    b"\n" * 40,
    b"0 \0" * 32,
    b"short",
    b"9f86d081884c7d659a2feaa0c55ad01",
]


@given(st.binary(max_size=31) | st.lists(st.sampled_from(b"0\0 \t\r\n"), max_size=99).map(bytes))
def test_what_can_be_guessed_is_no_secret(text: bytes) -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        secret.check(text)


def test_what_people_make_for_a_secret_is_one() -> None:
    for made in (secrets.token_hex(16), secrets.token_hex(32), secrets.token_urlsafe(32)):
        secret.check(made.encode())
    secret.check(secrets.token_bytes(32))


@given(st.binary(min_size=32).filter(lambda made: not made.isascii()))
def test_raw_bytes_are_a_secret_even_where_they_end_like_a_line(made: bytes) -> None:
    secret.check(made)
    secret.check(b"\n" + made[:30] + b"\x80 ")


@pytest.mark.parametrize("text", [text for text in GUESSABLE if b"\0" not in text])
def test_a_guessable_setting_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(text)
    for environ in (
        {"MODELSHARE_SECRET": text.decode()},
        {"MODELSHARE_SECRET_FILE": str(tmp_path / "secret")},
    ):
        with pytest.raises(SettingsError, match=r"Invalid setting `secret`.*openssl rand"):
            load(environ)


@pytest.mark.parametrize("text", GUESSABLE)
def test_a_guessable_file_is_refused_and_stays_as_it_is(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(text)
    with pytest.raises(SettingsError, match=r"secret\.key does not contain a valid secret"):
        create_app(Settings(data_dir=tmp_path))
    assert (tmp_path / "secret.key").read_bytes() == text


def test_the_secret_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    made = settings.signing_secret()
    file = tmp_path / "data" / "secret.key"
    file.chmod(0o644)
    assert (len(made), settings.signing_secret(), file.read_bytes()) == (64, made, made)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_process_goes_by_one_secret_while_it_runs(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    before = app.settings.signing_secret()
    (tmp_path / "secret.key").write_text(secrets.token_hex(32))
    assert app.settings.signing_secret() == before


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Application]:
    async with startup.started(settings) as app:
        yield app


async def test_processes_on_a_fresh_folder_start_together(settings: Settings) -> None:
    """As several do on PostgreSQL; SQLite is for one process, so there they follow each other."""
    together = 1 if settings.database.startswith("sqlite") else 4

    async def start(n: int) -> bytes:
        async with running(settings.model_copy(update={"port": n})) as app:
            await new_tenant(app, f"p{n}")
            return app.settings.signing_secret()

    found = await asyncio.gather(*(start(n) for n in range(together)))
    found.append(await start(9))
    assert len(set(found)) == 1


@pytest.mark.parametrize("with_data", [True, False])
async def test_a_lost_secret_is_not_replaced(settings: Settings, *, with_data: bool) -> None:
    async with running(settings) as app:
        if with_data:
            await new_tenant(app, "acme")
    file = settings.data_dir / "secret.key"
    kept = file.read_bytes()
    file.unlink()
    for _ in range(2):
        with pytest.raises(SettingsError, match=r"secret\.key is missing.*replace-secret"):
            await startup.started(settings).__aenter__()
        assert not file.exists()
    file.write_bytes(kept)
    async with running(settings):
        pass


async def test_a_database_older_than_fingerprints_does_not_get_a_new_secret(settings: Settings) -> None:
    app = create_app(settings)
    await new_tenant(app, "acme")
    await app.database.close()
    (settings.data_dir / "secret.key").unlink()
    with pytest.raises(SettingsError, match=r"secret\.key is missing"):
        await startup.started(settings).__aenter__()


async def test_another_secret_is_refused_until_somebody_means_it(settings: Settings) -> None:
    async with running(settings):
        pass
    other = settings.model_copy(update={"secret": SecretStr(secrets.token_hex(32))})
    with pytest.raises(SettingsError, match=r"does not match this database.*MODELSHARE_SECRET"):
        await startup.started(other).__aenter__()
    await recovery.replace_secret(other)
    async with running(other):
        pass
    with pytest.raises(SettingsError, match="does not match"):
        await startup.started(settings).__aenter__()


async def test_a_new_start_after_a_loss_is_said_on_purpose(settings: Settings) -> None:
    async with running(settings):
        pass
    (settings.data_dir / "secret.key").unlink()
    await recovery.replace_secret(settings)
    async with running(settings):
        pass


async def test_health_stays_silent_about_it(app: Application, anonymous: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert app.settings.signing_secret().decode() not in (await anonymous.get(path)).text
