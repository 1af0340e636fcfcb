"""Arbitrary and mutated frames: what a million of them do to a platform, and to others who use it meanwhile.

    PYTHONPATH=tests python benchmarks/frames.py [--frames 1000000] [--links 8] [--seed 1]

As many as that are read by the decoders of both sides, in this process: each is a frame within its bounds or a decode
error. As many again go to a real `modelshare serve`, over links of one project that link again whenever they are
thrown out, while another project calls its own endpoint again and again. An agent is thrown out at the first frame
that is wrong, so most of what is sent is right by itself, and wrong at most in its place.
Targets: the server lives, no call of the other project fails, each is counted, and the server's memory stays in bounds.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random

import httpx
import msgspec
import psutil

import odd_frames
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.link import Request, decode_from_agent, decode_from_server
from programs import Server, serving

PAUSE = 0.02
CHAT = b'{"messages": [{"role": "user", "content": "Hi"}]}'
MOST_MEMORY = 400
"""MiB that the server may grow to; it starts at about a hundred."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--links", type=int, default=8, help="at once")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    decode(given.frames, Random(given.seed))
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), public_requests_per_minute="1000000") as server,
    ):
        asyncio.run(send(server, Path(name), given.frames, given.links, given.seed))


def decode(count: int, random: Random) -> None:
    started, refused = time.monotonic(), 0
    for number in range(count):
        is_agents = number % 2
        honest = odd_frames.from_agent(random) if is_agents else odd_frames.from_server(random)
        try:
            (decode_from_agent if is_agents else decode_from_server)(odd_frames.changed(random, honest))
        except msgspec.DecodeError:
            refused += 1
    print(f"decoded   {count:9,} changed frames in {time.monotonic() - started:.0f} s, {refused:,} refused")


@dataclass
class Score:
    sent: int = 0
    links: int = 0
    calls: int = 0
    failures: int = 0


async def send(server: Server, folder: Path, count: int, links: int, seed: int) -> None:
    score = Score()
    process = psutil.Process(server.process.pid)
    async with project(server, folder, "honest") as http, project(server, folder, "hostile") as hostile:
        agent_id, token = await enroll(http)
        async with linked(server.url, token, agent_id=agent_id, handler=serve) as agent:
            await agent.make_ready()
            tokens = [(await enroll(hostile, name=f"box {number}"))[1] for number in range(links)]
            before = limit = process.memory_info().rss >> 20
            started = time.monotonic()
            ended = asyncio.Event()
            calling = [asyncio.create_task(call(one, to, ended)) for one, to in ((http, score), (hostile, None))]
            attacking = [
                asyncio.create_task(attack(server.url, token, Random(seed + number), score, count))
                for number, token in enumerate(tokens)
            ]
            while not all(task.done() for task in attacking):
                await asyncio.sleep(0.2)
                limit = max(limit, process.memory_info().rss >> 20)
            seconds = time.monotonic() - started
            ended.set()
            await asyncio.gather(*attacking, *calling)
        counted = await usage(http, score)
    alive = server.process.poll() is None
    print(
        f"sent      {score.sent:9,} frames over {score.links:,} links in {seconds:.0f} s, {score.sent / seconds:,.0f}/s"
    )
    print(f"others    {score.calls:9,} calls, {score.failures} failed, {counted:,} counted")
    print(f"memory    {before} MiB before, {limit} MiB at most   (target < {MOST_MEMORY} MiB)")
    print(f"server    {'runs' if alive else 'DEAD'}")


@contextlib.asynccontextmanager
async def project(server: Server, folder: Path, slug: str) -> AsyncIterator[httpx.AsyncClient]:
    """A project with the endpoint `chat`, and a client with its key."""
    made = server.project(slug)
    with Client(server.url, made.api_key) as client:
        write_gguf(folder / "tiny.gguf", name="tiny")
        model = push_model(client, folder / "tiny.gguf", name="tiny").model
    headers = {"Authorization": f"Bearer {made.api_key}", "X-Project": made.id}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as http:
        spec = {"slug": "chat", "model": model.id, "tier": "self_hosted"}
        assert (await http.post("/v1/endpoints", json=spec)).status_code == 201
        yield http


async def attack(url: str, token: str, random: Random, score: Score, count: int) -> None:
    """One machine's link, again and again."""
    while score.sent < count:
        with contextlib.suppress(AssertionError, ConnectionError, OSError):
            async with linked(url, token) as agent:
                score.links += 1
                held = [one.deployment_id for one in await agent.make_ready()]
                while agent.closed is None and score.sent < count:
                    streams = [agent.requests.get_nowait()[0].stream for _ in range(agent.requests.qsize())]
                    for _ in range(50):
                        honest = odd_frames.from_agent(random, held, streams)
                        is_bad = random.random() < 0.002
                        await agent.socket.send_bytes(
                            odd_frames.changed(random, honest) if is_bad else odd_frames.encode(honest)
                        )
                        score.sent += 1
                    await asyncio.sleep(0)


async def call(http: httpx.AsyncClient, score: Score | None, ended: asyncio.Event) -> None:
    """Calls the client's own endpoint until `ended`; the hostile project's calls are in nobody's score."""
    path = f"/{http.headers['X-Project']}/chat/v1/chat/completions"
    while not ended.is_set():
        status = (await http.post(path, content=CHAT)).status_code
        if score is not None:
            score.calls += 1
            score.failures += status != HTTPStatus.OK
        await asyncio.sleep(PAUSE)


async def usage(http: httpx.AsyncClient, score: Score) -> int:
    """Requests that are counted, once that is all of them or a while is over."""
    counted = 0
    for _ in range(100):
        counted = sum(row["requests"] for row in (await http.get("/v1/usage")).json()["data"])
        if counted == score.calls:
            break
        await asyncio.sleep(0.1)
    return counted


async def serve(agent: LinkAgent, request: Request, body: bytes) -> None:  # noqa: ARG001 - a handler's form
    await agent.send(answer(request, b'{"choices": []}'))


if __name__ == "__main__":
    main()
