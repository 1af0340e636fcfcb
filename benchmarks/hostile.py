"""Three honest projects beside a hostile one: no honest request may fail, and every token has to be counted.

    python benchmarks/hostile.py [--minutes 10] [--port 18461]

The honest ones run `modelshare agent` before an engine that states its counts, and ask it all the time, whole and
streamed. The hostile one has an agent that answers its own requests with frames that nobody should believe or keep,
opens connections without saying anything, and sends half of a body. Prints what was asked, failed and counted, and
the server's peak memory.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import msgspec
import psutil
from aiohttp import web
from router import process, wait_for

from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from modelshare.wire.keys import ProjectCreate, ProjectWithKey
from modelshare.wire.link import LINK_PATH, PROTOCOL

HONEST: Final = ("acme", "borealis", "cirrus")
WORDS: Final = tuple(f"word{number} " for number in range(20))
PROMPT_TOKENS, COMPLETION_TOKENS = 11, len(WORDS)
CHAT: Final[dict[str, Any]] = {"model": "m", "messages": [{"role": "user", "content": "Say twenty words, please."}]}
ADDRESS: Final = "127.0.0.66"
"""Where the hostile project's connections come from: honest clients have another address."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=10.0)
    arguments.add_argument("--port", type=int, default=18461, help="the first of two")
    arguments.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.engine:
        web.run_app(engine(), host="127.0.0.1", port=given.port, print=None)
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        status = asyncio.run(measure(start(stack, Path(folder), given.port), given.minutes * 60))
    sys.exit(status)


# --- the engine --------------------------------------------------------------------------------------------------


def engine() -> web.Application:
    """Answers every chat with the same words and their true count."""
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
    }
    head = {"id": "c", "created": 1, "model": "m"}

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def chat(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            message = {"role": "assistant", "content": "".join(WORDS)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        chunk = head | {"object": "chat.completion.chunk"}
        for word in WORDS:
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            await answer.write(f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode())
            await asyncio.sleep(0.002)
        await answer.write(f"data: {json.dumps(chunk | {'choices': [], 'usage': usage})}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", chat)
    return app


# --- the platform ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """Everything that runs."""

    url: str
    server: psutil.Process
    honest: Sequence[ProjectWithKey]
    hostile: ProjectWithKey
    agent_token: str


def start(stack: ExitStack, folder: Path, port: int) -> Stage:
    engine_port = port + 1
    stack.enter_context(
        process(folder / "engine.log", sys.executable, __file__, "--engine", "--port", str(engine_port))
    )
    command = [sys.executable, "-m", "modelshare"]
    log = folder / "serve.log"
    stack.enter_context(process(log, *command, "serve", "--data-dir", str(folder / "data"), "--port", str(port)))
    platform_key = wait_for(lambda: re.findall(r"msp_\S+", log.read_text(encoding="utf-8")))[0]
    url = f"http://127.0.0.1:{port}"
    server = next(
        each for each in psutil.Process().children(recursive=True) if "serve" in each.cmdline() and each.is_running()
    )
    write_gguf(folder / "tiny.gguf", name="tiny")
    with Client(url, platform_key) as operator:
        projects = [
            operator.platform.create_project(ProjectCreate(name=slug, slug=slug)) for slug in (*HONEST, "mallory")
        ]
    for project in projects:
        with Client(url, project.api_key) as client:
            model = push_model(client, folder / "tiny.gguf", name="tiny").model
            client.endpoints.create(EndpointCreate(slug="chat", model=model.id, tier="self_hosted"))
            join_key = client.join_keys.create(JoinKeyCreate(name="box")).key
            if project.slug == "mallory":
                made = httpx.post(f"{url}/v1/enroll", json={"join_key": join_key, "name": "hostile"})
                return Stage(url, server, projects[:-1], project, made.json()["token"])
            agent = [*command, "agent", "--url", url, "--data-dir", str(folder / project.slug), "--engine", "external"]
            external = ["--external-url", f"http://127.0.0.1:{engine_port}"]
            stack.enter_context(
                process(folder / f"{project.slug}.log", *agent, *external, MODELSHARE_JOIN_KEY=join_key)
            )
            wait_for(lambda: client.endpoints.get("chat").status is EndpointStatus.ACTIVE)
    raise AssertionError("the hostile project comes last")


async def measure(stage: Stage, seconds: float) -> int:
    """Exit status: 1 when an honest request failed or was not counted."""
    ends = time.monotonic() + seconds
    asked = {project.slug: Asked() for project in stage.honest}
    peak = 0
    async with hostility(stage):
        clients = [
            asyncio.ensure_future(ask(stage.url, project, asked[project.slug], ends, streamed=streamed))
            for project in stage.honest
            for streamed in (False, True)
        ]
        while not all(client.done() for client in clients):
            peak = max(peak, stage.server.memory_info().rss)
            await asyncio.sleep(0.5)
        await asyncio.gather(*clients)
    good = True
    for project in stage.honest:
        counted, expected = await usage(stage.url, project, asked[project.slug]), asked[project.slug]
        good &= not expected.failures and counted == expected.counts
        print(f"  {project.slug:10} asked {expected.good:7}   failed {len(expected.failures)}   counted {counted}")
        for failure in expected.failures[:5]:
            print(f"    {failure}")
        if counted != expected.counts:
            print(f"    expected {expected.counts}")
    print(f"  server's peak {peak >> 20} MiB")
    return 0 if good else 1


# --- the honest --------------------------------------------------------------------------------------------------


class Asked:
    """What one project's clients saw."""

    def __init__(self) -> None:
        self.good = 0
        self.failures: list[str] = []

    @property
    def counts(self) -> tuple[int, int, int]:
        """Requests, prompt tokens and completion tokens, as usage has to have them."""
        return self.good, self.good * PROMPT_TOKENS, self.good * COMPLETION_TOKENS


async def ask(url: str, project: ProjectWithKey, asked: Asked, ends: float, *, streamed: bool) -> None:
    path = f"{url}/{project.id}/chat/v1/chat/completions"
    headers = {"Authorization": f"Bearer {project.api_key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as http:
        while time.monotonic() < ends:
            try:
                async with http.post(path, json=CHAT | {"stream": streamed}) as answer:
                    text = await answer.text()
                said = _said(text, streamed=streamed) if answer.status == 200 else ""
                if said == "".join(WORDS):
                    asked.good += 1
                else:
                    asked.failures.append(f"{answer.status} {text[:300]}")
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                asked.failures.append(repr(error))
            await asyncio.sleep(0.02)


def _said(text: str, *, streamed: bool) -> str:
    if not streamed:
        return str(json.loads(text)["choices"][0]["message"]["content"])
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if events[-1] != "[DONE]":
        return ""
    chunks = (json.loads(event)["choices"] for event in events[:-1])
    return "".join(choices[0]["delta"].get("content", "") for choices in chunks if choices)


async def usage(url: str, project: ProjectWithKey, asked: Asked) -> tuple[int, int, int]:
    """What the platform counted, once that is as much as was asked, or after a while."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {project.api_key}"}) as http:
        deadline = time.monotonic() + 10
        while True:
            answer = await http.get(f"{url}/v1/usage", params={"group_by": "day"})
            rows = answer.json()["data"]
            counted = tuple(
                sum(row[name] for row in rows) for name in ("requests", "prompt_tokens", "completion_tokens")
            )
            if counted == asked.counts or time.monotonic() > deadline:
                return counted[0], counted[1], counted[2]
            await asyncio.sleep(0.5)


# --- the hostile -------------------------------------------------------------------------------------------------

Send = Callable[..., Awaitable[None]]
Behaviour = Callable[[Send, int, random.Random], Awaitable[None]]
EVENTS, JSON = "text/event-stream", "application/json"


def answering(*fields: Any) -> Behaviour:
    async def act(send: Send, stream: int, _: random.Random) -> None:
        await send("answer", stream, *fields)

    return act


def heading(*fields: Any) -> Behaviour:
    async def act(send: Send, stream: int, _: random.Random) -> None:
        await send("head", stream, *fields)
        await send("chunk", stream, b"data: 1\n\n")
        await send("end", stream, None, 3, 8)

    return act


async def flood(send: Send, stream: int, dice: random.Random) -> None:
    await send("head", stream, 200, EVENTS)
    for _ in range(200):
        name = dice.choice(["chunk", "end", "head", "answer"])
        big = "x" * 900_000
        fields = {"chunk": (big.encode(),), "end": (big, 0, 0), "head": (200, big), "answer": (200, JSON, big.encode())}
        await send(name, stream, *fields[name])


async def many_small(send: Send, stream: int, _dice: random.Random) -> None:
    await send("head", stream, 200, EVENTS)
    for _ in range(100_000):
        await send("chunk", stream, b"")


async def rubbish(send: Send, stream: int, dice: random.Random) -> None:
    values: list[Any] = [
        None,
        -1,
        0,
        1 << 63,
        -(1 << 63),
        1.5,
        float("nan"),
        "\0",
        "\x1b[2J",
        b"\xff",
        [],
        {},
        "x" * 999,
    ]
    for _ in range(50):
        name = dice.choice(["hello", "report", "head", "chunk", "end", "answer", "released", "ping", "nothing"])
        await send(name, stream, *dice.choices(values, k=dice.randrange(8)))


async def silence(_send: Send, _stream: int, _: random.Random) -> None:
    await asyncio.sleep(5)


BEHAVIOURS: Final[Sequence[Behaviour]] = (
    *(answering(status, JSON, b"{}", 3, 8) for status in (0, 99, 100, 101, 199, 600, 1000, -1, 1 << 40)),
    *(heading(status, EVENTS) for status in (0, 101, 204, 304, 999)),
    answering(200, "text/html\r\nSet-Cookie: taken=1", b"{}", 3, 8),
    answering(200, "text/\u20ac", b"{}", 3, 8),
    answering(200, "a/" + "b" * 900_000, b"{}", 3, 8),
    *(answering(200, JSON, b"{}", tokens, 0) for tokens in ((1 << 64) - 1, 1 << 62, 1 << 31, -1, -(1 << 62))),
    flood,
    many_small,
    rubbish,
    silence,
)


@asynccontextmanager
async def hostility(stage: Stage) -> AsyncIterator[None]:
    """All of it, as long as the block."""
    dice = random.Random(7)
    tasks = [
        asyncio.ensure_future(work)
        for work in (
            hostile_agent(stage, dice),
            *(hostile_client(stage, reads=reads) for reads in (True, True, False)),
            hostile_connections(stage),
        )
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                print(f"  the hostile one stopped: {ended!r}")


async def hostile_agent(stage: Stage, dice: random.Random) -> None:
    headers = {"Authorization": f"Bearer {stage.agent_token}"}
    behaviours = itertools.cycle(BEHAVIOURS)
    while True:
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(stage.url + LINK_PATH, headers=headers, max_msg_size=0) as socket,
            ):
                await _linked(socket, behaviours, dice)
        await asyncio.sleep(0.05)


async def _linked(
    socket: aiohttp.ClientWebSocketResponse, behaviours: "itertools.cycle[Behaviour]", dice: random.Random
) -> None:
    async def send(*frame: Any) -> None:
        await socket.send_bytes(msgspec.msgpack.encode(frame))

    await send("hello", PROTOCOL, "0.1.0", ["llamacpp"], "cpu", 1 << 34, 1 << 40)
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY:
            return
        frame = msgspec.msgpack.decode(message.data)
        if frame[0] == "desired":
            for wanted in frame[2]:
                await send("report", wanted["deployment_id"], "ready", 1, 1, None, ["chat/completions"])
        elif frame[0] == "request":
            await next(behaviours)(send, frame[1], dice)


async def hostile_client(stage: Stage, *, reads: bool) -> None:
    path = f"{stage.url}/{stage.hostile.id}/chat/v1/chat/completions"
    headers = {"Authorization": f"Bearer {stage.hostile.api_key}"}
    connector = aiohttp.TCPConnector(local_addr=(ADDRESS, 0))
    async with aiohttp.ClientSession(headers=headers, connector=connector) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                async with http.post(path, json=CHAT | {"stream": True}) as answer:
                    await (answer.read() if reads else asyncio.sleep(5))
            await asyncio.sleep(0.05)


async def hostile_connections(stage: Stage) -> None:
    """A thousand at a time that say nothing, or half of something."""
    port = int(stage.url.rpartition(":")[2])
    heads = itertools.cycle([b"", b"GET /hea", b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"])
    while True:
        writers: list[asyncio.StreamWriter] = []
        for head in itertools.islice(heads, 1000):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(ADDRESS, 0))
                writer.write(head)
                writers.append(writer)
        await asyncio.sleep(10)
        for writer in writers:
            writer.close()


if __name__ == "__main__":
    main()
