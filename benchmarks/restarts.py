"""Three processes behind a load balancer, under chats and streams, while one stops, is killed or hangs.

    PYTHONPATH=tests python benchmarks/restarts.py [rolling] [kill] [freeze] [--rounds 5] [--chats 20] [--streams 50]

`rolling`: each process in turn gets SIGTERM and is started again; no request may fail. `kill`: one gets SIGKILL; only
its own requests may fail, and all agents answer again within two seconds. `freeze`: one is stopped for a minute; no
request may wait longer than 15 s. Everything is real: `modelshare serve` on PostgreSQL, `modelshare agent`, and a TCP
load balancer that chooses processes in turn among those whose `/readyz` says so, and cuts the connections to one that
does not answer.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

from router import CHAT, STREAM, engine, wait_for

from balancer import Balancer, Load
from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from postgres import postgres_server, run_sql
from programs import SECRET, Server, agent, serving
from served import free_port

PROCESSES = 3
AGENTS = 2
FREEZE_SECONDS = 60
TOKENS, PACE = 60, 20
"""Of each stream."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="by default all three")
    parser.add_argument("--rounds", type=int, default=5, help="of rolling restarts")
    parser.add_argument("--chats", type=float, default=20, help="per second")
    parser.add_argument("--streams", type=int, default=50, help="at once")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        run_sql(f"{postgres}/postgres", "CREATE DATABASE benchmark")
        asyncio.run(measure(Path(name), f"{postgres}/benchmark", given))


async def measure(folder: Path, database: str, given: argparse.Namespace) -> None:
    engine_port, port = free_port(), free_port()
    answering = asyncio.create_task(engine(engine_port))
    platform = Platform(folder, database)
    try:
        await asyncio.to_thread(platform.start_all)
        async with Balancer(platform.ports).running(port):
            load = await asyncio.to_thread(prepare, platform, folder, port, engine_port)
            load.chats, load.streams = given.chats, given.streams
            if "rolling" in given.what or not given.what:
                await rolling(platform, load, given.rounds)
            if "kill" in given.what or not given.what:
                await kill(platform, load)
            if "freeze" in given.what or not given.what:
                await freeze(platform, load)
    finally:
        await asyncio.to_thread(platform.stack.close)
        answering.cancel()


async def rolling(platform: "Platform", load: Load, rounds: int) -> None:
    for number in range(rounds):
        async with load.running():
            await asyncio.sleep(3)
            for index in range(PROCESSES):
                await asyncio.to_thread(platform.restart, index, signal.SIGTERM)
                await asyncio.sleep(3)
        print(f"rolling restart {number + 1}: {load.told()}", flush=True)


async def kill(platform: "Platform", load: Load) -> None:
    async with load.running():
        await asyncio.sleep(3)
        platform.servers[0].process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.sleep(10)
        late = [when - killed for _, when, _ in load.failures if when > killed]
        await asyncio.to_thread(platform.restart, 0, None)
    print(f"killed: {load.told()}, the last failure after {max(late, default=0):.2f} s", flush=True)


async def freeze(platform: "Platform", load: Load) -> None:
    async with load.running():
        await asyncio.sleep(3)
        os.kill(platform.servers[0].process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(FREEZE_SECONDS)
        finally:
            os.kill(platform.servers[0].process.pid, signal.SIGCONT)
        await asyncio.sleep(5)
    print(f"frozen: {load.told()}", flush=True)


class Platform:
    """The processes. Each has a port of its own, which it keeps."""

    def __init__(self, folder: Path, database: str, **settings: str) -> None:
        self.stack = contextlib.ExitStack()
        self.servers: list[Server] = []
        self.ports = [free_port() for _ in range(PROCESSES)]
        self._folder = folder
        self._settings = {"database_url": database, "secret": SECRET, "shutdown_notice_seconds": "3"} | settings
        self._stacks = [self.stack.enter_context(contextlib.ExitStack()) for _ in self.ports]

    def start_all(self) -> None:
        for index in range(PROCESSES):
            self.servers.append(self._start(index))

    def restart(self, index: int, number: signal.Signals | None) -> None:
        process = self.servers[index].process
        if number is not None:
            process.send_signal(number)
        process.wait(120)
        self._stacks[index].close()
        self.servers[index] = self._start(index)

    def _start(self, index: int) -> Server:
        key = self.servers[0].platform_key if self.servers else ""
        folder = self._folder / "shared"
        started = serving(folder, port=self.ports[index], platform_key=key, **self._settings)
        return self._stacks[index].enter_context(started)


def prepare(platform: Platform, folder: Path, port: int, engine_port: int) -> Load:
    """A project with a model, an endpoint, and agents that serve it."""
    project = platform.servers[0].project("bench")
    url = f"http://127.0.0.1:{port}"
    with Client(url, project.api_key) as client:
        write_gguf(folder / "tiny.gguf", name="tiny")
        model = push_model(client, folder / "tiny.gguf", name="tiny").model
        client.endpoints.create(EndpointCreate(slug="chat", model=model.id, tier="self_hosted"))
        key = client.join_keys.create(JoinKeyCreate(name="box")).key
        external = "--engine", "external", "--external-url", f"http://127.0.0.1:{engine_port}", "--parallel", "256"
        for number in range(AGENTS):
            platform.stack.enter_context(agent(url, folder / f"agent{number}", key, *external))
        wait_for(lambda: client.endpoints.get("chat").status is EndpointStatus.ACTIVE, 60)
    time.sleep(3)  # until the agents are connected to all processes
    return Load(f"{url}/{project.id}/chat/v1/chat/completions", project.api_key, CHAT, STREAM % (TOKENS, PACE), TOKENS)


if __name__ == "__main__":
    main()
