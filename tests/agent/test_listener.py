"""What an agent tells those that connect to it: the bytes of a signed link, and strangers nothing."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agent.direct import EXPIRES, LOOPBACK, Bytes, InMemory, listening
from agent.support import MIB, some_bytes, wait_until
from modelshare.agent.direct import listener as listener_module
from modelshare.agent.direct.files import ServedFile
from modelshare.agent.direct.listener import Listener, place_of
from modelshare.agent.direct.options import Address, DirectOptions
from modelshare.agent.errors import StopError
from modelshare.wire import direct
from modelshare.wire.link import Direct

pytestmark = pytest.mark.anyio
KEY = "cd" * 32
DATA = some_bytes(3 * MIB)
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def target(*, key: str = KEY, sha256: str = SHA256, reader: str = "me", expires_at: int = EXPIRES) -> str:
    signature = direct.sign(key, sha256=sha256, reader=reader, expires_at=expires_at)
    link = direct.link("", sha256=sha256, reader=reader, expires_at=expires_at, signature=signature)
    return link.removeprefix("https://")


def request(to: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {to} HTTP/1.1", "Host: there", *fields, "", ""]).encode()


class Visitor:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, head: bytes) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(head)
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in answer[1:-2])
        body = await self.reader.readexactly(int(fields["content-length"]))
        return int(answer[0].split()[1]), fields, body

    async def rest(self) -> bytes:
        """What comes until the other side closes the connection."""
        data = b""
        try:
            while more := await self.reader.read(1 << 16):
                data += more
        except OSError:
            pass
        return data


@asynccontextmanager
async def visiting(where: Direct) -> AsyncIterator[Visitor]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = where.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert hashlib.sha256(certificate).hexdigest() == where.fingerprint
    try:
        yield Visitor(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
def files() -> InMemory:
    return InMemory({SHA256: DATA})


@pytest.fixture
async def here(files: InMemory, tmp_path: Path) -> AsyncIterator[tuple[Listener, Direct]]:
    async with listening(files, KEY, tmp_path) as listening_:
        yield listening_


async def test_ranges_of_one_file_on_one_connection(here: tuple[Listener, Direct], tmp_path: Path) -> None:
    async with visiting(here[1]) as visitor:
        for field, start, end in (("Range: bytes=3-9", 3, 10), ("range:bytes=0-99999999", 0, 3 * MIB)):
            status, fields, body = await visitor.ask(request(target(), field))
            assert (status, body) == (206, DATA[start:end])
            assert fields["content-range"] == f"bytes {start}-{end - 1}/{3 * MIB}"
        status, _, body = await visitor.ask(request(target()))
        assert (status, body) == (206, DATA)
        assert (await visitor.ask(request(target(), "Range: bytes=99999999-99999999")))[0] == 404
        assert (await visitor.ask(request(target(), "Range: bytes=0-0")))[2] == DATA[:1], "it stays open"
    assert list(tmp_path.iterdir()) == [], "the private key is not left on the disk"


STRANGE = {
    "no link": request("/"),
    "a listing": request("/files/"),
    "a path": request("/etc/passwd"),
    "unsigned": request(f"/files/{SHA256}"),
    "another key": request(target(key="ef" * 32)),
    "another file": request(target().replace(SHA256, OTHER)),
    "another reader": request(target().replace("reader=me", "reader=you")),
    "a longer time": request(target().replace(str(EXPIRES), str(EXPIRES + 1))),
    "expired": request(target(expires_at=1_000_000_000)),
    "upper case": request(target().replace(SHA256, SHA256.upper())),
    "more of a query": request(target() + "&x=1"),
    "post": request(target(), method="POST"),
    "head": request(target(), method="HEAD"),
    "a body": request(target(), "Content-Length: 5") + b"GET /",
    "chunks": request(target(), "Transfer-Encoding: chunked"),
    "absolute": request("https://there" + target()),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "rubbish": b"\x00\xff\r\n\r\n",
}


@pytest.mark.parametrize("strange", STRANGE)
async def test_whatever_is_no_valid_link_gets_the_same_answer(
    here: tuple[Listener, Direct], files: InMemory, strange: str
) -> None:
    async with visiting(here[1]) as visitor:
        visitor.writer.write(STRANGE[strange])
        assert await visitor.rest() == NOT_FOUND
    assert files.opened == []


async def test_a_head_without_end_is_cut_off(here: tuple[Listener, Direct]) -> None:
    async with visiting(here[1]) as visitor:
        visitor.writer.write(request(target())[:-2] + b"X: " + b"x" * (1 << 20))
        assert await visitor.rest() == b""


async def test_without_a_key_no_link_is_valid(files: InMemory, tmp_path: Path) -> None:
    async with listening(files, "", tmp_path) as (_, where), visiting(where) as visitor:
        visitor.writer.write(request(target()))
        assert await visitor.rest() == NOT_FOUND


async def test_silent_strangers_keep_nobody_out(here: tuple[Listener, Direct], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they do not even begin TLS, or send nothing after it: the oldest have to go."""
    monkeypatch.setattr(listener_module, "_STRANGERS", 4)
    listener, where = here
    host, _, port = where.address.rpartition(":")
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(visiting(where)) for _ in range(3)]
        raw = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
        for _, writer in raw:
            stack.callback(writer.transport.abort)
        visitor = await stack.enter_async_context(visiting(where))
        assert (await visitor.ask(request(target(), "Range: bytes=0-0")))[0] == 206
        assert [await each.rest() for each in silent] == [b"", b"", b""]
        await wait_until(lambda: len(listener._strangers) <= 4)


def test_a_stranger_is_the_same_at_all_addresses_of_its_network() -> None:
    """Else one with an IPv6 network would displace everybody else, one address after the other."""
    assert place_of("2001:db8:1:2::3") == place_of("2001:db8:1:2:ffff::") != place_of("2001:db8:1:3::3")
    assert place_of("fe80::1%eth0") == place_of("fe80::2")
    assert place_of("192.0.2.1") != place_of("192.0.2.2")


async def test_a_stranger_has_little_time(here: tuple[Listener, Direct], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_STRANGER_SECONDS", 0.3)
    host, _, port = here[1].address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await reader.read() == b""
    writer.transport.abort()


async def test_one_reader_has_a_few_connections(here: tuple[Listener, Direct], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_OF_ONE_READER", 2)
    head = request(target(), "Range: bytes=0-0")
    async with AsyncExitStack() as stack:
        visitors = [await stack.enter_async_context(visiting(here[1])) for _ in range(3)]
        assert [(await each.ask(head))[0] for each in visitors] == [206, 206, 503]
        another = await stack.enter_async_context(visiting(here[1]))
        assert (await another.ask(request(target(reader="you"), "Range: bytes=0-0")))[0] == 206


class Watched(InMemory):
    """Remembers the one file that it opened."""

    file: Bytes

    async def open(self, sha256: str) -> ServedFile:
        self.file = Bytes(self.files[sha256])
        return self.file


async def test_a_reader_that_takes_nothing_costs_little_memory_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "_WRITE_SECONDS", 0.3)
    data = bytes(64 * MIB)
    sha256 = hashlib.sha256(data).hexdigest()
    files = Watched({sha256: data})
    async with listening(files, KEY, tmp_path) as (listener, where), visiting(where) as visitor:
        visitor.writer.transport.pause_reading()  # type: ignore[attr-defined]
        visitor.writer.write(request(target(sha256=sha256)))
        await wait_until(lambda: hasattr(files, "file") and not listener._connections)
        assert files.file.reads[-1] < 32 * MIB, "what is in the buffers of two kernels, and no more"


async def test_an_answer_ends_with_its_link(files: InMemory, tmp_path: Path) -> None:
    now = [1.0]

    class Aging(Bytes):
        async def read(self, at: int, most: int) -> bytes:
            now[0] += 1
            return await super().read(at, most)

    class AgingFiles(InMemory):
        async def open(self, sha256: str) -> ServedFile:
            return Aging(self.files[sha256])

    aging = AgingFiles(files.files)
    async with listening(aging, KEY, tmp_path, clock=lambda: now[0]) as (_, where), visiting(where) as visitor:
        visitor.writer.write(request(target(expires_at=4)))
        assert 0 < len(await visitor.rest()) < len(DATA)


async def test_an_address_in_use_is_named(here: tuple[Listener, Direct], files: InMemory, tmp_path: Path) -> None:
    port = int(here[1].address.rpartition(":")[2])
    with pytest.raises(StopError, match=rf"Cannot listen on 127\.0\.0\.1:{port}: Address already in use\. Choose"):
        async with listening(files, KEY, tmp_path, LOOPBACK.__class__(Address("127.0.0.1", port))):
            pass


async def test_it_listens_elsewhere_than_it_is_reached(files: InMemory, tmp_path: Path) -> None:
    options = DirectOptions(Address("files.example.org", 7433), Address("127.0.0.1", 0))
    async with listening(files, KEY, tmp_path, options) as (listener, where):
        assert where.address == "files.example.org:7433"
        assert listener._socket is not None
        port = listener._socket.getsockname()[1]
        async with visiting(Direct(f"127.0.0.1:{port}", where.fingerprint)) as visitor:
            assert (await visitor.ask(request(target(), "Range: bytes=1-2")))[2] == DATA[1:3]
