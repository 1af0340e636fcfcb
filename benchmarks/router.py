"""The inference path: client -> front -> router -> WebSocket -> agent -> engine, against the same engine directly.

    python benchmarks/router.py [--seconds 4] [--rounds 1] [--streams 100:100:50 1000:60:30] [--port 18431]

The engine answers the same small chat at once, so what is measured is the way. Yardsticks are nginx, vllm-router and
sglang-router, where they are installed (in this environment or on the PATH); they have no agent's hop. Everything is
real: `modelshare serve`, a pushed model, `modelshare agent` with the external engine, which is why the engine is one
more process here. Processor time is what each process used, user and system, for each request or token.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import psutil
import uvloop

import modelshare.server.sharing
from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from modelshare.wire.keys import ProjectCreate

Found = TypeVar("Found")
CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "Say hello to the tiny test model, please."}]}'
STREAM = CHAT[:-1].replace(b"please", b"%d tokens at %d/s") + b', "stream": true}'
ANSWER = (
    b'{"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0, "message": '
    b'{"role": "assistant", "content": "Hello from the fixed answer."}, "finish_reason": "stop"}], '
    b'"usage": {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}}'
)
EVENT = (
    b'data: {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
    b'[{"index": 0, "delta": {"content": "word "}, "finish_reason": null}]}\n\n'
)
CONCURRENCIES = (1, 50, 256)
TOKENS, PACE = 60, 30
"""Of a stream, and a second."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    arguments.add_argument("--rounds", type=int, default=1, help="of everything; the medians are printed at the end")
    arguments.add_argument(
        "--streams", nargs="*", default=["100:100:50", "1000:60:30"], help="streams:tokens of each:tokens a second"
    )
    arguments.add_argument("--port", type=int, default=18431, help="the first of eight")
    arguments.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    gc.disable()  # else the pauses of the engine and of this process are measured
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    if given.engine:
        uvloop.run(engine(given.port))
        return
    modes = [tuple(map(int, each.split(":"))) for each in given.streams]
    with tempfile.TemporaryDirectory() as name, platform(Path(name), given.port) as targets:
        uvloop.run(measure(targets, given.seconds, given.rounds, modes))


async def measure(targets: list["Target"], seconds: float, rounds: int, modes: list[tuple[int, ...]]) -> None:
    rates: dict[tuple[int, str], list[float]] = {}
    for number in range(rounds):
        for concurrency in CONCURRENCIES:
            print(f"\nround {number + 1}: whole answers, {concurrency} at once", flush=True)
            for target in targets:
                await load(target, concurrency, min(1.0, seconds))  # warm
                seen, used = await with_processor_time(target, load(target, concurrency, seconds))
                rates.setdefault((concurrency, target.name), []).append(seen.rate)
                times = f"median {seen.median:7.3f} ms   p99 {seen.p99:8.3f} ms"
                print(
                    f"  {target.name:13} {seen.rate:9.0f} req/s   {times}   errors {seen.errors}   "
                    f"{per(used, len(seen.latencies))} a request",
                    flush=True,
                )
        for streams, tokens, pace in modes:
            print(f"\nround {number + 1}: {streams} streams of {tokens} tokens at {pace}/s", flush=True)
            for target in targets:
                every = asyncio.gather(*(stream(target, tokens, pace) for _ in range(streams)), return_exceptions=True)
                found, used = await with_processor_time(target, every)
                streamed = [one for one in found if isinstance(one, Streamed)]
                first = sorted(one.first * 1000 for one in streamed)
                pauses = sorted(one.longest_gap * 1000 for one in streamed)
                print(
                    f"  {target.name:13} first token median {statistics.median(first):7.2f} ms   "
                    f"p99 {p99(first):7.2f} ms   longest pause median {statistics.median(pauses):6.1f} ms   "
                    f"maximum {pauses[-1]:6.1f} ms   failed {streams - len(streamed)}   "
                    f"{per(used, streams * tokens)} a token",
                    flush=True,
                )
    print("\nmedian rates, as parts of each yardstick's")
    for concurrency in CONCURRENCIES:
        ours = statistics.median(rates[concurrency, "modelshare"])
        others = [target.name for target in targets if target.name != "modelshare"]
        parts = [f"{name} {ours / statistics.median(rates[concurrency, name]):.2f}" for name in others]
        print(f"  {concurrency:4} at once: {ours:.0f} req/s = {', '.join(parts)}")


async def with_processor_time(target: "Target", work: Awaitable[Found]) -> tuple[Found, dict[str, float]]:
    """The result, and the processor seconds that each of the target's processes used meanwhile."""
    before = {name: processor_seconds(number) for name, number in target.processes.items()}
    found = await work
    return found, {name: processor_seconds(target.processes[name]) - used for name, used in before.items()}


def processor_seconds(number: int) -> float:
    process = psutil.Process(number)
    return sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))


def per(used: dict[str, float], count: int) -> str:
    return ", ".join(f"{name} {seconds / max(count, 1) * 1e6:.0f} µs" for name, seconds in used.items())


@dataclass(frozen=True)
class Target:
    name: str
    port: int
    path: str
    key: str = "none"
    processes: dict[str, int] = field(default_factory=dict)

    def request(self, body: bytes) -> bytes:
        head = (
            f"POST {self.path}/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass
class Load:
    seconds: float
    latencies: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def median(self) -> float:
        return statistics.median(self.latencies) * 1000

    @property
    def p99(self) -> float:
        return p99(sorted(self.latencies)) * 1000


async def load(target: Target, concurrency: int, seconds: float) -> Load:
    found = Load(seconds)
    ends = time.perf_counter() + seconds
    request = target.request(CHAT)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while (started := time.perf_counter()) < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1])) if length else b""
            if head[9:12] == b"200" and body.startswith(b'{"id":'):
                found.latencies.append(time.perf_counter() - started)
            else:
                found.errors += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return found


@dataclass(frozen=True)
class Streamed:
    first: float
    longest_gap: float


async def stream(target: Target, tokens: int | None = None, pace: int = PACE) -> Streamed:
    """`tokens`: by default `TOKENS`; `pace`: tokens a second."""
    tokens = TOKENS if tokens is None else tokens
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    await asyncio.sleep(0.5 * (id(writer) % 997) / 997)  # not all in step
    started = time.perf_counter()
    writer.write(target.request(STREAM % (tokens, pace)))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head[9:12] == b"200", head
    first, last, gap, seen = 0.0, 0.0, 0.0, 0
    while seen < tokens:
        data = await reader.read(1 << 16)
        assert data, "the stream broke off"
        now = time.perf_counter()
        first = first or now - started
        gap, last = max(gap, now - last if last else 0.0), now
        seen += data.count(b"word ")
    writer.close()
    return Streamed(first, gap)


def p99(ordered: list[float]) -> float:
    return ordered[int(len(ordered) * 0.99)] if ordered else float("nan")


@contextmanager
def platform(folder: Path, port: int) -> Iterator[list[Target]]:
    """The engine, the yardsticks before it, and the whole platform before it."""
    engine_port, router_port = port + 1, port + 2
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(
            process(folder / "engine.log", sys.executable, __file__, "--engine", "--port", str(engine_port))
        )
        listens(engine_port)
        targets = [Target("engine", engine_port, "/v1", processes={"engine": own})]
        for name, start in YARDSTICKS.items():
            if shutil.which(name):
                router_port += 2
                number = stack.enter_context(start(folder, router_port, engine_port))
                targets.append(Target(name, router_port, "/v1", processes={name: number}))
        tiers = folder / "tiers.toml"
        shipped = Path(modelshare.server.sharing.__file__).with_name("tiers.toml").read_text(encoding="utf-8")
        tiers.write_text(re.sub(r"max_concurrent_requests = \d+", "max_concurrent_requests = 1000", shipped))
        command = [sys.executable, "-m", "modelshare"]
        serve = [*command, "serve", "--data-dir", str(folder / "data"), "--port", str(port)]
        log = folder / "serve.log"
        server = stack.enter_context(process(log, *serve, MODELSHARE_TIERS_FILE=str(tiers)))
        platform_key = wait_for(lambda: re.findall(r"msp_\S+", log.read_text(encoding="utf-8")))[0]
        url = f"http://127.0.0.1:{port}"
        with Client(url, platform_key) as operator:
            project = operator.platform.create_project(ProjectCreate(name="Benchmark", slug="bench"))
        with Client(url, project.api_key) as client:
            write_gguf(folder / "tiny.gguf", name="tiny")
            model = push_model(client, folder / "tiny.gguf", name="tiny").model
            client.endpoints.create(EndpointCreate(slug="chat", model=model.id, tier="self_hosted"))
            join_key = client.join_keys.create(JoinKeyCreate(name="box")).key
            agent = [*command, "agent", "--url", url, "--data-dir", str(folder / "agent")]
            external = [
                "--engine",
                "external",
                "--external-url",
                f"http://127.0.0.1:{engine_port}",
                "--parallel",
                "1024",
            ]
            running = stack.enter_context(
                process(folder / "agent.log", *agent, *external, MODELSHARE_JOIN_KEY=join_key)
            )
            wait_for(lambda: client.endpoints.get("chat").status is EndpointStatus.ACTIVE)
        processes = {"server": server, "agent": running}
        yield [*targets, Target("modelshare", port, f"/{project.id}/chat/v1", project.api_key, processes)]


@contextmanager
def process(log: Path, *command: str, **environment: str) -> Iterator[int]:
    """Yields its number."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        try:
            yield started.pid
        except BaseException:
            print(log.read_text(encoding="utf-8")[-3000:], file=sys.stderr)
            raise
        finally:
            started.terminate()
            started.wait(20)


@contextmanager
def nginx(folder: Path, port: int, engine_port: int) -> Iterator[int]:
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; upstream engine {{ server 127.0.0.1:{engine_port}; keepalive 512; }}\n"
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; location / {{ proxy_pass http://engine;\n"
        f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}\n'
    )
    with process(folder / "nginx.log", "nginx", "-c", str(settings)) as number:
        listens(port)
        yield number


@contextmanager
def router(name: str, folder: Path, port: int, engine_port: int) -> Iterator[int]:
    """vllm-router or sglang-router: both are made from one program and take the same options."""
    launch, level = ("launch ", "warn") if name == "sglang-router" else ("", "warning")
    options = (
        f"{launch}--host 127.0.0.1 --port {port} --worker-urls http://127.0.0.1:{engine_port} --policy round_robin"
    )
    quiet = f"--prometheus-port {port + 1} --log-level {level}"
    command = [name, *options.split(), *quiet.split()]
    with process(folder / f"{name}.log", *command) as number:
        listens(port)
        yield number


YARDSTICKS: dict[str, Callable[[Path, int, int], contextlib.AbstractContextManager[int]]] = {
    "nginx": nginx,
    "vllm-router": partial(router, "vllm-router"),
    "sglang-router": partial(router, "sglang-router"),
}


def listens(port: int) -> None:
    def is_open() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(is_open)
    time.sleep(3)  # until the routers have asked for the engine's health


def wait_for(look: Callable[[], Found], seconds: float = 30.0) -> Found:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing after {seconds:g} s")
        time.sleep(0.05)
    return found


async def engine(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(FixedAnswer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


class FixedAnswer(asyncio.Protocol):
    """As much of an engine as the way needs: the same answer to every chat, whole or at a steady pace."""

    WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
    EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._task: asyncio.Task[None] | None = None
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            body, self._buffer = rest[:size], rest[size:]
            if b'"stream": true' in body or b'"stream":true' in body:
                self._transport.write(self.EVENTS)
                tokens, pace = map(int, re.findall(rb"(\d+) tokens at (\d+)/s", body)[0])
                self._task = asyncio.create_task(self._stream(tokens, pace))
            else:
                self._transport.write(self.WHOLE)

    async def _stream(self, tokens: int, pace: int) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number in range(tokens):
            self._write_chunk(EVENT)
            await asyncio.sleep(started + (number + 1) / pace - loop.time())
        self._write_chunk(b"data: [DONE]\n\n")
        self._write_chunk(b"")

    def _write_chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))


if __name__ == "__main__":
    main()
