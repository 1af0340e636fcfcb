"""Clients and a load balancer, for tests of several processes of the server."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import aiohttp

CHECK_SECONDS = 0.5


class Balancer:
    """Passes connections to the processes in turn, among those that are ready; if it sees none, among all."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self.ready = set(ports)
        self.cut_off: set[int] = set()
        """Processes that were silent for so long that their connections were closed."""
        self._turn = 0
        self._connections: dict[int, set[asyncio.StreamWriter]] = {port: set() for port in ports}

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", port, backlog=1024)
        checks = [asyncio.create_task(self._check(each)) for each in self._ports]
        try:
            yield
        finally:
            server.close()
            for check in checks:
                check.cancel()

    async def _check(self, port: int) -> None:
        silent = 0
        while True:
            try:
                timeout = aiohttp.ClientTimeout(total=3)
                async with (
                    aiohttp.ClientSession(timeout=timeout) as http,
                    http.get(f"http://127.0.0.1:{port}/readyz") as answer,
                ):
                    is_ready, silent = answer.status == 200, 0
            except TimeoutError:
                is_ready, silent = False, silent + 1
                if silent > 1:
                    self.cut_off.add(port)
                    for each in list(self._connections[port]):
                        each.transport.abort()
            except (aiohttp.ClientError, OSError):
                is_ready = False
            (self.ready.add if is_ready else self.ready.discard)(port)
            await asyncio.sleep(CHECK_SECONDS)

    def _next(self) -> Iterator[int]:
        self._turn += 1
        for step in range(len(self._ports)):
            port = self._ports[(self._turn + step) % len(self._ports)]
            if port in self.ready or not self.ready:
                yield port

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for port in self._next():
            with contextlib.suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", port)
                self._connections[port] |= {writer, back}
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
                self._connections[port] -= {writer, back}
                return
        writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        target.close()


@dataclass
class Load:
    """Chats at a steady rate, and streams, one after the other."""

    url: str
    key: str
    chat: bytes
    """The body of a request."""
    stream: bytes
    tokens: int
    """Of a stream."""
    chats: float = 20
    """Per second."""
    most_chats: float = math.inf
    """At once."""
    streams: int = 50
    """At once."""
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, float, str]] = field(default_factory=list)
    """When the request began, when it failed, and why."""
    longest: float = 0.0
    _is_over: bool = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.answered, self.failures, self.longest, self._is_over = Counter(), [], 0.0, False
        headers = {"Authorization": f"Bearer {self.key}"}
        connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as http:
            running = [asyncio.create_task(self._keep_streaming(http)) for _ in range(self.streams)]
            running.append(asyncio.create_task(self._keep_chatting(http)))
            try:
                yield
            finally:
                self._is_over = True
                await asyncio.wait(running, timeout=120)

    def told(self) -> str:
        why = dict(Counter(why for *_, why in self.failures))
        done = f"{self.answered['chat']} chats, {self.answered['stream']} streams"
        return f"{done}, {len(self.failures)} failed {why}, longest wait {self.longest:.1f} s"

    async def _keep_chatting(self, http: aiohttp.ClientSession) -> None:
        asked: set[asyncio.Task[None]] = set()
        while not self._is_over:
            if len(asked) < self.most_chats:
                asked.add(asyncio.create_task(self._ask(http, "chat", self.chat, 1)))
            await asyncio.sleep(1 / self.chats)
            asked = {each for each in asked if not each.done()}
        await asyncio.gather(*asked)

    async def _keep_streaming(self, http: aiohttp.ClientSession) -> None:
        while not self._is_over:
            await self._ask(http, "stream", self.stream, self.tokens)

    async def _ask(self, http: aiohttp.ClientSession, kind: str, body: bytes, count: int) -> None:
        started = last = time.monotonic()
        seen = 0
        try:
            async with http.post(self.url, data=body) as answer:
                what = "" if answer.status == 200 else f"{answer.status} {(await answer.text())[:200]}"
                async for data, _ in answer.content.iter_chunks():
                    now = time.monotonic()
                    self.longest, last = max(self.longest, now - last), now
                    seen += data.count(b'"content"')
            what = what or ("" if seen == count else f"{seen} of {count} parts")
        except (aiohttp.ClientError, OSError) as error:
            what = f"{type(error).__name__} {error}"
        self.longest = max(self.longest, time.monotonic() - last)
        if not what:
            self.answered[kind] += 1
            return
        self.failures.append((started, time.monotonic(), f"{kind}: {what}"))
        if time.monotonic() - started < 1:
            await asyncio.sleep(0.2)
