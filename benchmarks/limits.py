"""Limits of three processes, counted from outside: what they let in, against what a limit allows.

    PYTHONPATH=tests python benchmarks/limits.py [requests] [tokens] [key] [slots] [remaining] [retry] [kill] [freeze]

Each limit is flooded twice: all processes evenly, and one after the other. It allows its capacity, and what is refilled
from the first request to the last answer; between 98 % of this and all of it should be let in. `remaining`: what the
header says, against what is left as counted here. `retry`: whether a request is refused more than a second before
`Retry-After`, and let in by another process after it. `kill`: one process gets SIGKILL in the middle. `freeze`: one is
stopped for 15 s. Everything is real: `modelshare serve` on PostgreSQL, `modelshare agent`; the engine is part of this
process.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp
from restarts import PROCESSES, Platform
from router import CHAT, STREAM, FixedAnswer, wait_for

import modelshare.server.sharing
from balancer import Balancer
from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from modelshare.wire.keys import KeyCreate
from postgres import postgres_server, run_sql
from programs import agent
from served import free_port

ALONE = "cannot share limits"
"""In the log: the database did not answer in time."""
CLIENTS = 12
TURN_SECONDS = 3.0
"""How long one process is asked before the next, where they are not asked evenly."""
REST_SECONDS = 0.03
"""After a refusal."""
TOKENS_OF_ANSWER = 15
SLOTS = 50
FROZEN_SECONDS = 15.0
TIERS = {
    "requests": "requests_per_minute = 600\nburst_percent = 50\nmax_concurrent_requests = 1000",
    "tokens": "tokens_per_minute = 8000\nmax_concurrent_requests = 1000",
    "slots": f"max_concurrent_requests = {SLOTS}",
    "unlimited": "max_concurrent_requests = 1000",
    "many": "requests_per_minute = 1500\nburst_percent = 0\nmax_concurrent_requests = 1000",
    "few": "requests_per_minute = 30\nburst_percent = 0\nmax_concurrent_requests = 1000",
}
TIER = """
[{slug}]
name = "{slug}"
category = "compute"
request_timeout_seconds = 30
stream_idle_timeout_seconds = 60
may_evict = false
{limits}
"""


class Limit(NamedTuple):
    capacity: float
    per_minute: float

    def allows(self, seconds: float) -> float:
        return self.capacity + self.per_minute / 60 * seconds


REQUESTS, TOKENS, OF_KEY, MANY = Limit(900, 600), Limit(8000, 8000), Limit(600, 600), Limit(1500, 1500)


class LetIn(NamedTuple):
    asked_at: float
    answered_at: float
    remaining: int
    """As the answer says; -1 if it does not."""


@dataclass
class Flood:
    """Clients that ask again as soon as they have an answer."""

    http: aiohttp.ClientSession
    ports: list[int]
    """Those that are asked now; changed while it runs."""
    path: str
    key: str
    let_in: list[LetIn] = field(default_factory=list)
    refused: int = 0
    failed: int = 0

    async def run(self, seconds: float, *, evenly: bool = True, clients: int = CLIENTS, body: bytes = CHAT) -> None:
        started = time.monotonic()

        def port(number: int) -> int:
            turn = number if evenly else int((time.monotonic() - started) / TURN_SECONDS)
            return self.ports[turn % len(self.ports)]

        async def client(number: int) -> None:
            while time.monotonic() < started + seconds:
                if await self.ask(port(number), body) != 200:
                    await asyncio.sleep(REST_SECONDS)

        await asyncio.gather(*map(client, range(clients)))

    async def ask(self, port: int, body: bytes = CHAT) -> int:
        """Returns the status, 0 without an answer."""
        asked_at = time.monotonic()
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            async with self.http.post(f"http://127.0.0.1:{port}{self.path}", data=body, headers=headers) as answer:
                await answer.read()
        except (aiohttp.ClientError, OSError):
            self.failed += 1
            return 0
        if answer.status == 200:
            remaining = int(answer.headers.get("x-ratelimit-remaining-requests", -1))
            self.let_in.append(LetIn(asked_at, time.monotonic(), remaining))
        self.refused += answer.status == 429
        self.failed += answer.status not in (200, 429)
        return answer.status

    @property
    def seconds(self) -> float:
        return max(each.answered_at for each in self.let_in) - min(each.asked_at for each in self.let_in)

    def told(self, limit: Limit, *, each: int = 1) -> str:
        """`each`: what one request uses of the limit."""
        used, allowed = each * len(self.let_in), limit.allows(self.seconds)
        others = f"{self.refused} refused, {self.failed} failed"
        return f"{used} of {allowed:.0f} in {self.seconds:.1f} s = {100 * used / allowed:.1f} %   ({others})"


class Engine(FixedAnswer):
    """Counts the streams in progress."""

    running = 0
    peak = 0

    async def _stream(self, tokens: int, pace: int) -> None:
        Engine.running += 1
        Engine.peak = max(Engine.peak, Engine.running)
        try:
            await super()._stream(tokens, pace)
        finally:
            Engine.running -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="by default everything", default=list(TRIALS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        run_sql(f"{postgres}/postgres", "CREATE DATABASE benchmark")
        asyncio.run(measure(Path(name), f"{postgres}/benchmark", given.what))


async def measure(folder: Path, database: str, what: Sequence[str]) -> None:
    shipped = Path(modelshare.server.sharing.__file__).with_name("tiers.toml").read_text(encoding="utf-8")
    tiers = folder / "tiers.toml"
    tiers.write_text(shipped + "".join(TIER.format(slug=slug, limits=limits) for slug, limits in TIERS.items()))
    engine_port, port = free_port(), free_port()
    engine = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", engine_port, backlog=1024)
    platform = Platform(folder, database, tiers_file=str(tiers))
    try:
        await asyncio.to_thread(platform.start_all)
        timeout = aiohttp.ClientTimeout(sock_read=5)
        async with (
            Balancer(platform.ports).running(port),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http,
        ):
            trial = await asyncio.to_thread(Trial, platform, folder, http, port, engine_port)
            log = platform.servers[0].log
            for name in what:
                await TRIALS[name](trial)
                print(f"{'':10} {log.read_text().count(ALONE)} times a process went on alone so far", flush=True)
    finally:
        await asyncio.to_thread(platform.stack.close)
        engine.close()


class Trial:
    """A project with a model, which agents of the platform serve on all tiers; each flood is of an endpoint of its
    own."""

    def __init__(
        self, platform: Platform, folder: Path, http: aiohttp.ClientSession, port: int, engine_port: int
    ) -> None:
        self._platform = platform
        self._http = http
        self._project = platform.servers[0].project("bench")
        self._url = f"http://127.0.0.1:{port}"
        self._numbers = itertools.count(1)
        with Client(self._url, self._project.api_key) as client:
            write_gguf(folder / "tiny.gguf", name="tiny")
            self._model = push_model(client, folder / "tiny.gguf", name="tiny").model.id
        with Client(self._url, platform.servers[0].platform_key) as operator:
            key = operator.platform.join_keys.create(JoinKeyCreate(name="box", tiers=list(TIERS))).key
        external = "--engine", "external", "--external-url", f"http://127.0.0.1:{engine_port}", "--parallel", "1024"
        platform.stack.enter_context(agent(self._url, folder / "agent", key, *external))
        for tier in TIERS:
            self._endpoint(tier)
        time.sleep(3)  # until the agent is connected to all processes

    def _endpoint(self, tier: str) -> str:
        slug = f"{tier}-{next(self._numbers)}"
        with Client(self._url, self._project.api_key) as client:
            client.endpoints.create(EndpointCreate(slug=slug, model=self._model, tier=tier))
            wait_for(lambda: client.endpoints.get(slug).status is EndpointStatus.ACTIVE, 60)
        return f"/{self._project.id}/{slug}/v1/chat/completions"

    async def _flood(self, tier: str, key: str = "") -> Flood:
        path = await asyncio.to_thread(self._endpoint, tier)
        return Flood(self._http, list(self._platform.ports), path, key or self._project.api_key)

    async def _both(self, name: str, tier: str, limit: Limit, seconds: float, each: int = 1) -> None:
        for evenly in (True, False):
            flood = await self._flood(tier)
            await flood.run(seconds, evenly=evenly)
            print(f"{name:10} {_how(evenly)}   {flood.told(limit, each=each)}", flush=True)

    async def requests(self) -> None:
        await self._both("requests", "requests", REQUESTS, 15)

    async def tokens(self) -> None:
        await self._both("tokens", "tokens", TOKENS, 20, TOKENS_OF_ANSWER)

    async def of_key(self) -> None:
        for evenly in (True, False):
            flood = await self._flood("unlimited", await asyncio.to_thread(self._limited_key))
            await flood.run(15, evenly=evenly)
            print(f"{'key':10} {_how(evenly)}   {flood.told(OF_KEY)}", flush=True)

    def _limited_key(self) -> str:
        with Client(self._url, self._project.api_key) as client:
            return client.keys.create(KeyCreate(name="limited", requests_per_minute=round(OF_KEY.per_minute))).key

    async def slots(self) -> None:
        for evenly in (True, False):
            flood = await self._flood("slots")
            running = asyncio.create_task(flood.run(15, evenly=evenly, clients=90, body=STREAM % (40, 20)))
            await asyncio.sleep(2)
            seen: list[int] = []
            Engine.peak = Engine.running
            while not running.done() and len(seen) < 1000:
                seen.append(Engine.running)
                await asyncio.sleep(0.01)
            await running
            used = f"at most {Engine.peak} of {SLOTS}, {statistics.mean(seen):.1f} on average"
            print(f"{'slots':10} {_how(evenly)}   {used}   ({flood.refused} refused)", flush=True)

    async def remaining(self) -> None:
        for evenly in (True, False):
            flood = await self._flood("many")
            await flood.run(12, evenly=evenly, clients=6)
            left, last, off = MANY.capacity, 0.0, []
            for each in sorted(flood.let_in, key=lambda each: each.answered_at):
                passed = each.answered_at - last if last else 0.0
                left, last = min(MANY.capacity, left + passed * MANY.per_minute / 60) - 1, each.answered_at
                off.append(100 * (each.remaining - left) / MANY.capacity)
            figures = f"median {statistics.median(map(abs, off)):.2f} %, from {min(off):+.2f} to {max(off):+.2f} %"
            print(f"{'remaining':10} {_how(evenly)}   off by {figures} of the limit, {left:.0f} were left", flush=True)

    async def retry(self) -> None:
        """The rates are such that a request comes back every two seconds."""
        flood, early, late, rounds = await self._flood("few"), 0, 0, 9
        for number in range(rounds):
            ports = flood.ports[number % PROCESSES :] + flood.ports[: number % PROCESSES]
            while (refusal := await self._refusal(flood, ports[0])) is None:
                continue
            asked_at, refused_at, seconds = refusal
            await asyncio.sleep(asked_at + seconds - 1.4 - time.monotonic())
            early += seconds > 1 and await flood.ask(ports[1]) == 200
            await asyncio.sleep(refused_at + seconds - time.monotonic())
            late += await flood.ask(ports[2]) != 200
        print(f"{'retry':10} {rounds} times: let in a second before {early}, refused after it {late}", flush=True)

    async def _refusal(self, flood: Flood, port: int) -> tuple[float, float, int] | None:
        """When the request was sent and refused, and its Retry-After; None if it was let in."""
        asked_at = time.monotonic()
        headers = {"Authorization": f"Bearer {flood.key}"}
        async with self._http.post(f"http://127.0.0.1:{port}{flood.path}", data=CHAT, headers=headers) as answer:
            await answer.read()
            return (asked_at, time.monotonic(), int(answer.headers["retry-after"])) if answer.status == 429 else None

    async def kill(self) -> None:
        flood = await self._flood("requests")
        running = asyncio.create_task(flood.run(25))
        await asyncio.sleep(5)
        port = flood.ports.pop(0)
        self._platform.servers[0].process.send_signal(signal.SIGKILL)
        await running
        print(f"{'kill':10} {_how(True)}   {flood.told(REQUESTS)}", flush=True)
        await asyncio.to_thread(self._platform.restart, self._platform.ports.index(port), None)
        await asyncio.sleep(3)

    async def freeze(self) -> None:
        flood = await self._flood("requests")
        running = asyncio.create_task(flood.run(30))
        await asyncio.sleep(5)
        port = flood.ports.pop(0)
        number = self._platform.servers[self._platform.ports.index(port)].process.pid
        os.kill(number, signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_SECONDS)
        finally:
            os.kill(number, signal.SIGCONT)
        flood.ports.append(port)
        await running
        print(f"{'freeze':10} {_how(True)}   {flood.told(REQUESTS)}", flush=True)


TRIALS: dict[str, Callable[[Trial], Awaitable[None]]] = {
    "requests": Trial.requests,
    "tokens": Trial.tokens,
    "key": Trial.of_key,
    "slots": Trial.slots,
    "remaining": Trial.remaining,
    "retry": Trial.retry,
    "kill": Trial.kill,
    "freeze": Trial.freeze,
}


def _how(evenly: bool) -> str:
    return "evenly " if evenly else "in turn"


if __name__ == "__main__":
    main()
