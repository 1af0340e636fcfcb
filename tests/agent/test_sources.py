"""Where a pull fetches a file that several have, and what it does when one of them does not do what it should."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest

from agent.direct import EXPIRES, LOOPBACK, Bytes, InMemory, listening, source
from agent.support import MIB, Storage, some_bytes
from modelshare.agent.cache import Cache
from modelshare.agent.direct.files import RefusedError, ServedFile
from modelshare.agent.direct.sources import DirectReader, Network
from modelshare.agent.pull import Puller
from modelshare.wire.agents import DirectSource, Grant
from modelshare.wire.direct import WrongBytes
from modelshare.wire.link import Direct

pytestmark = pytest.mark.anyio
KEY = "ab" * 32
NOWHERE = "127.0.0.1:1"


@dataclass
class Pulled:
    """What a pull with these sources did."""

    storage: Storage
    cache: Cache
    grants: int = 0
    wrong: list[WrongBytes] = field(default_factory=list)

    def is_complete(self) -> bool:
        files = self.storage.manifest()
        return all(self.cache.blob(file.sha256).read_bytes() == self.storage.files[file.path] for file in files)


@pytest.fixture(autouse=True)
def _files(storage: Storage) -> None:
    storage.files = {"model.bin": some_bytes(9 * MIB)}


async def pull(
    storage: Storage,
    folder: Path,
    sources: list[DirectSource],
    allowed: tuple[Network, ...] = LOOPBACK.allowed,
    *,
    pause: float = 0.01,
) -> Pulled:
    pulled = Pulled(storage, Cache(folder / "cache"))

    async def grant() -> Grant:
        pulled.grants += 1
        async with reader.request() as request:
            if request is not None:
                pulled.wrong += request.wrong_bytes
        return (await storage.grant()).model_copy(update={"sources": sources, "expires_at": EXPIRES})

    reader = DirectReader(allowed, pause=pause)
    async with aiohttp.ClientSession() as http:
        puller = Puller(pulled.cache, http, direct=reader, retry_first=0.001)
        try:
            await puller.pull(storage.manifest(), grant, lambda _: None)
        finally:
            puller.close()
            await reader.close()
    return pulled


async def test_the_owners_storage_is_not_asked_for_what_an_agent_has(storage: Storage, tmp_path: Path) -> None:
    async with listening(InMemory.of(storage), KEY, tmp_path) as (_, there):
        pulled = await pull(storage, tmp_path, [source(there, KEY, storage.manifest())], pause=1)
    assert pulled.is_complete()
    assert (storage.sent.total(), pulled.grants) == (0, 1)


async def test_the_owners_machine_is_asked_before_the_platform(storage: Storage, tmp_path: Path) -> None:
    async with listening(InMemory.of(storage), KEY, tmp_path) as (_, there):
        owner = source(there, KEY, storage.manifest(), is_owner=True)
        gone = source(Direct(NOWHERE, "0" * 64), KEY, storage.manifest(), agent_id="gone")
        pulled = await pull(storage, tmp_path, [gone, owner], pause=0.5)
    assert pulled.is_complete()
    assert storage.sent.total() == 0


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("is_owner", [False, True])
async def test_wrong_bytes_are_fetched_again_by_the_url_and_reported(
    storage: Storage, tmp_path: Path, is_owner: bool
) -> None:
    async with listening(InMemory.of(storage, _flipped), KEY, tmp_path) as (_, there):
        pulled = await pull(storage, tmp_path, [source(there, KEY, storage.manifest(), is_owner=is_owner)], pause=1)
    assert pulled.is_complete()
    assert storage.sent.total() == 9 * MIB
    [report] = pulled.wrong
    assert (report.agents, report.sha256) == (["there"], storage.file("model.bin").sha256)


async def test_reports_that_did_not_arrive_are_sent_again() -> None:
    reader = DirectReader([])
    for agent in ("first", "second"):
        reader.report("0" * 64, [agent])
        with pytest.raises(ConnectionError):
            async with reader.request():
                raise ConnectionError
    async with reader.request() as request:
        assert request is not None
        assert [each.agents for each in request.wrong_bytes] == [["first"], ["second"]]
    async with reader.request() as request:
        assert request is None


class Slow(Bytes):
    async def read(self, at: int, most: int) -> bytes:
        await asyncio.sleep(0.02)
        return self.data[at : at + min(most, 100)]


class SlowFiles(InMemory):
    async def open(self, sha256: str) -> ServedFile:
        return Slow(self.files[sha256])


async def test_an_agent_that_is_slow_is_not_waited_for(storage: Storage, tmp_path: Path) -> None:
    async with listening(SlowFiles.of(storage), KEY, tmp_path) as (_, there):
        pulled = await pull(storage, tmp_path, [source(there, KEY, storage.manifest())])
    assert pulled.is_complete()
    assert 8 * MIB < storage.sent.total() <= 9 * MIB


@dataclass
class Refusing:
    """Refuses every file."""

    status: HTTPStatus

    async def open(self, sha256: str) -> ServedFile:
        raise RefusedError(self.status, "Not here.", 1)


@pytest.mark.parametrize("status", [HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE])
async def test_who_has_nothing_is_waited_for_a_little(storage: Storage, tmp_path: Path, status: HTTPStatus) -> None:
    async with listening(Refusing(status), KEY, tmp_path) as (_, there):
        pulled = await pull(storage, tmp_path, [source(there, KEY, storage.manifest())])
    assert pulled.is_complete()
    assert storage.sent.total() == 9 * MIB
    assert 1 < pulled.grants <= 4, "other agents may have come, but it does not ask forever"


Odd = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _answers(head: str, body: bytes = b"") -> Odd:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n")) is not None:
            writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            await writer.drain()

    return answer


async def _cuts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


ODD: dict[str, Odd] = {
    "cuts": _cuts,
    "redirects": _answers("HTTP/1.1 302 Found\nLocation: http://127.0.0.1:1/latest/meta-data\nContent-Length: 0"),
    "no range": _answers("HTTP/1.1 206 Partial Content\nContent-Length: 1", b"x"),
    "empty range": _answers("HTTP/1.1 206 Partial Content\nContent-Range: bytes 0--1/9437184\nContent-Length: 0"),
    "backward": _answers("HTTP/1.1 206 Partial Content\nContent-Range: bytes 0-0/9437184\nContent-Length: 0"),
    "another size": _answers("HTTP/1.1 200 OK\nContent-Length: 3", b"abc"),
    "rubbish": _answers("\x00\x01nonsense"),
    "login page": _answers("HTTP/1.1 200 OK\nContent-Type: text/html\nContent-Length: 9", b"<p>Log in"),
    "error": _answers("HTTP/1.1 500 Internal Server Error\nContent-Length: 0"),
    "unauthorized": _answers("HTTP/1.1 401 Unauthorized\nContent-Length: 0"),
}


@pytest.mark.parametrize("odd", ODD)
async def test_whatever_another_agent_answers_the_pull_ends_well(storage: Storage, tmp_path: Path, odd: str) -> None:
    async with AsyncExitStack() as stack:
        listener, there = await stack.enter_async_context(listening(InMemory({}), KEY, tmp_path))
        server = await asyncio.start_server(_quietly(ODD[odd]), "127.0.0.1", 0, ssl=listener._context)
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        where = Direct(f"127.0.0.1:{port}", there.fingerprint)
        pulled = await pull(storage, tmp_path, [source(where, KEY, storage.manifest())])
    assert pulled.is_complete()


def _quietly(odd: Odd) -> Odd:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await odd(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    return serve


async def test_another_certificate_is_not_spoken_to(storage: Storage, tmp_path: Path) -> None:
    files = InMemory.of(storage)
    async with listening(files, KEY, tmp_path) as (_, there):
        imposter = Direct(there.address, hashlib.sha256(b"the real one").hexdigest())
        pulled = await pull(storage, tmp_path, [source(imposter, KEY, storage.manifest())])
    assert pulled.is_complete()
    assert files.opened == []


@pytest.mark.parametrize("allowed", [(), (ip_network("10.0.0.0/8"),)])
async def test_only_allowed_networks_are_connected_to(
    storage: Storage, tmp_path: Path, allowed: tuple[Network, ...]
) -> None:
    """Names are resolved first: `localhost` leads where it must not."""
    files = InMemory.of(storage)
    async with listening(files, KEY, tmp_path) as (listener, there):
        named = Direct(there.address.replace("127.0.0.1", "localhost"), there.fingerprint)
        both = [source(each, KEY, storage.manifest(), agent_id=each.address) for each in (there, named)]
        pulled = await pull(storage, tmp_path, both, allowed)
        assert listener._strangers == {}
    assert pulled.is_complete()
    assert files.opened == []


@pytest.mark.parametrize("address", ["not an address", "127.0.0.1:1/@evil.example:80", "[::1", "", "a:b:c"])
async def test_an_address_that_is_none_is_passed_over(storage: Storage, tmp_path: Path, address: str) -> None:
    where = Direct(address, "0" * 64)
    assert (await pull(storage, tmp_path, [source(where, KEY, storage.manifest())])).is_complete()


@pytest.mark.parametrize("signatures", [[], [""], ["0" * 32], ["0" * 32] * 9])
async def test_links_that_are_not_signed_are_not_served(
    storage: Storage, tmp_path: Path, signatures: list[str]
) -> None:
    files = InMemory.of(storage)
    async with listening(files, KEY, tmp_path) as (_, there):
        forged = source(there, KEY, storage.manifest()).model_copy(update={"signatures": signatures})
        assert (await pull(storage, tmp_path, [forged])).is_complete()
    assert files.opened == []
