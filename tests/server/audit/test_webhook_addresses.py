"""Webhooks cannot reach what is not public, whatever URL or name server says; and attempts that get no answer."""

import socket
import threading
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from clock import Clock
from modelshare.server import public_addresses
from modelshare.server.audit.webhooks import sending
from modelshare.server.audit.webhooks.sending import Message, Outcome, Sender
from receiver import Receiver, Reply, receiving

pytestmark = pytest.mark.anyio
NOWHERE = "2000::1"
"""Counts as public, and is given to nobody."""


class Names(AbstractResolver):
    """A name server that answers the same question differently each time; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address that a socket was made for."""
    made: list[str] = []
    check = public_addresses.public_socket

    def watching(info: tuple[object, ...]) -> socket.socket:
        connection = check(info)
        made.append(str(info[4][0]))  # type: ignore[index] # the socket's address
        return connection

    monkeypatch.setattr(sending, "public_socket", watching)
    return made


@asynccontextmanager
async def sender(
    names: Names | None = None, *, allow_private: bool = False, seconds: float = 60
) -> AsyncIterator[Sender]:
    made = Sender(Clock(), allow_private=allow_private, resolver=names, seconds=seconds)
    yield made
    await made.close()


def message(url: str) -> Message:
    return Message(uuid.uuid4(), uuid.uuid4(), "{}", url, (b"key",))


def https(receiver: Receiver, host: str) -> str:
    """The receiver's port under another name. It speaks no TLS, but that a connection came is enough to fail."""
    return f"https://{host}:{receiver.url.split(':')[2]}"


def is_refused(outcome: Outcome) -> bool:
    return outcome.status is None and "is not a public address" in (outcome.error or "")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.7", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "::1", "::",
     "::ffff:127.0.0.1", "fe80::1", "fd00:ec2::254", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::7f00:1", "ff02::1",
     "localhost"],
)  # fmt: skip
async def test_a_name_that_leads_inside(receiver: Receiver, connected: list[str], address: str) -> None:
    async with sender(Names([address])) as client:
        outcome = await client.send(message(https(receiver, "hooks.example")))
    assert is_refused(outcome)
    assert address not in (outcome.error or ""), "it is not told where the name leads"
    assert (connected, receiver.received) == ([], [])


async def test_a_name_that_leads_elsewhere_the_second_time(receiver: Receiver, connected: list[str]) -> None:
    names = Names([NOWHERE], ["127.0.0.1"])
    async with sender(names, seconds=1) as client:
        first = await client.send(message(https(receiver, "hooks.example")))
        second = await client.send(message(https(receiver, "hooks.example")))
    assert not is_refused(first)
    assert is_refused(second)
    assert names.asked == ["hooks.example", "hooks.example"], "nothing is remembered between attempts"
    assert connected == [NOWHERE]


async def test_a_name_with_a_public_and_a_private_address(receiver: Receiver, connected: list[str]) -> None:
    async with sender(Names(["127.0.0.1", NOWHERE, "::1"]), seconds=1) as client:
        outcome = await client.send(message(https(receiver, "hooks.example")))
    assert outcome.error
    assert connected == [NOWHERE]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "[::ffff:7f00:1]", "[64:ff9b::127.0.0.1]", "2130706433", "0x7f000001", "0x7f.1", "127.1",
     "0177.0.0.1", "localhost", "127.0.0.1.", "[fe80::1%25lo]"],
)  # fmt: skip
async def test_an_address_in_any_form(receiver: Receiver, connected: list[str], host: str) -> None:
    async with sender() as client:
        outcome = await client.send(message(https(receiver, host)))
    assert outcome.status is None
    assert outcome.error
    assert (connected, receiver.received) == ([], [])


async def test_http_is_for_platforms_that_allow_it(receiver: Receiver) -> None:
    async with sender(Names(["127.0.0.1"])) as client:
        assert (await client.send(message(receiver.url))).status is None
    async with sender(allow_private=True) as client:
        assert await client.send(sent := message(receiver.url)) == Outcome(sent.delivery_id, 204, None)
    assert len(receiver.received) == 1


async def test_no_proxy_from_the_environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with sender(allow_private=True) as client:
            assert (await client.send(message(receiver.url))).error is None
        assert proxy.received == []


async def test_a_certificate_that_proves_nothing(tmp_path: Path) -> None:
    """The address is allowed, its certificate is its own: nothing is sent."""
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    await anyio.run_process([*words.split(), "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")])
    with receiving(certificate=(tmp_path / "cert", tmp_path / "key")) as server:
        async with sender(allow_private=True) as client:
            outcome = await client.send(message(server.url))
        assert outcome.error == "`127.0.0.1` has no trusted TLS certificate. Check its certificate."
        assert server.received == []


async def test_no_answer_in_time(receiver: Receiver) -> None:
    release = threading.Event()
    receiver.answer = lambda _: Reply() if release.wait(20) else Reply(500)
    async with sender(allow_private=True, seconds=0.2) as client:
        outcome = await client.send(message(receiver.url))
    release.set()
    assert (outcome.status, outcome.error) == (None, "`127.0.0.1` did not answer within 0.2 s.")


@pytest.mark.parametrize("name", ["nowhere.invalid", f"{'a' * 70}.example"])
async def test_a_name_of_nobody(name: str) -> None:
    async with sender() as client:
        assert (
            await client.send(message(f"https://{name}/"))
        ).error == f"The name `{name}` does not resolve to an address."
