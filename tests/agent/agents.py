"""Complete agents, in this process or a separate one, with a real engine and a tiny real model."""

import asyncio
import functools
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from agent.peer import TOKEN, VERDICT_KEY, Peer
from agent.support import Storage
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.identity import Identity
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.agent.wiring import Agent
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import Phase
from modelshare.wire.link import Chunk, DesiredDeployment, End, Hello, Report

MAIN = """
import sys
from pathlib import Path
from modelshare.agent.main import run
url, join_key, folder = sys.argv[1:4]
sys.exit(run(url=url, join_key=join_key or None, data_dir=Path(folder)))
"""
RAY = RaySettings()
QUESTION = json.dumps({"model": "anything", "messages": [{"role": "user", "content": "Hi"}]}).encode()


def ask(**fields: Any) -> bytes:
    return json.dumps(json.loads(QUESTION) | fields).encode()


@functools.cache
def tiny_gguf(*, loop: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.gguf"
        write_gguf(file, loop=loop)
        return file.read_bytes()


def wanted(
    storage: Storage, deployment_id: str = "dep_1", served_name: str = "acme/tiny", digest: str = "a"
) -> DesiredDeployment:
    files = storage.manifest()
    return DesiredDeployment(
        deployment_id, "sha256:" + digest * 64, served_name, "1.0.0", "gguf", "LlamaForCausalLM", "chat", 2048, None,
        files, 4,
    )  # fmt: skip


async def ready(peer: Peer, deployment_id: str = "dep_1") -> Report:
    """Waits until the deployment is ready; discards its earlier reports."""
    report = await peer.expect(Report, lambda one: one.deployment_id == deployment_id and one.phase == Phase.READY)
    peer.frames = [one for one in peer.frames if not (isinstance(one, Report) and one.deployment_id == deployment_id)]
    return report


async def read_stream(peer: Peer, stream: int = 1) -> tuple[bytes, End]:
    """The complete body of a streamed response, and its end."""
    end = await peer.expect(End, lambda one: one.stream == stream)
    chunks = [one.data for one in peer.frames if isinstance(one, Chunk) and one.stream == stream]
    return b"".join(chunks), end


@asynccontextmanager
async def running_agent(
    peer: Peer, storage: Storage, folder: Path, engine: str | None = None, ray: RaySettings = RAY
) -> AsyncIterator[Agent]:
    """An enrolled agent in this process, linked to the peer."""
    peer.grant = storage.grant
    async with aiohttp.ClientSession() as http, EnginePool() as pool:
        agent = Agent(
            peer.url,
            Identity("agent_1", TOKEN, VERDICT_KEY),
            folder,
            EngineSource(folder, engine, ray=ray),
            http,
            pool,
        )
        linking = asyncio.create_task(agent.link.run())
        try:
            await peer.expect(Hello)
            yield agent
        finally:
            await agent.stop(grace=0)
            linking.cancel()
            await asyncio.wait([linking])


@asynccontextmanager
async def agent_process(peer: Peer, folder: Path, join_key: str = "msj_good") -> AsyncIterator[Process]:
    """An agent in a separate process, which is killed at the end if still running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, peer.url, join_key, str(folder), stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ends_with(process: Process) -> tuple[int, str]:
    """Waits for the process; returns its exit code and output."""
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, said.decode()


def pids_under(folder: Path) -> Sequence[int]:
    """First processes of the running engines of an agent on this folder, according to its records."""
    return [json.loads(path.read_bytes())["pid"] for path in (folder / "engines").glob("*.json")]
