"""Deployments on a real Ray cluster of two nodes, whose replicas run llama.cpp.

The cluster takes longer to start than everything else here, so one test goes through a deployment's life.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from agent.agents import ask, read_stream, ready, running_agent, tiny_gguf, wanted
from agent.engines.relay import HELLO, Counts, stream
from agent.engines.relay import ask as ask_engine
from agent.peer import Peer
from agent.support import Storage, wait_until
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.engines.base import Engine, EngineError
from modelshare.agent.ray_serve.engine import RayEngine
from modelshare.agent.ray_serve.messages import State
from modelshare.agent.ray_serve.settings import Needs, RaySettings, Replicas
from modelshare.agent.wiring import Agent
from modelshare.wire.link import Answer, Released
from served import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
PROGRAM = Path(__file__).with_name("ray_nodes.py")
SLOW_IMPORT = (
    'raise ImportError("jsonschema uses it if it is there, and each of Ray\'s processes would take seconds more")'
)
NO_HEADERS: Mapping[str, str] = {}
SECONDS = 240.0
"""Ray's processes start slowly when other tests use the cores."""


@dataclass(frozen=True, slots=True)
class RayCluster:
    address: str
    ingress: str
    folder: Path
    pid: int

    @property
    def copies(self) -> list[Path]:
        """The complete files that nodes have."""
        return [path for node in ("one", "two") for path in (self.folder / node).glob("*/weights/*") if not path.suffix]

    def settings(self, *, cpus: float = 0.9, placement_seconds: float = 0.5) -> RaySettings:
        replicas = Replicas(1, 2, target_requests=0.5, up_after_seconds=0)
        needs = Needs(cpus=cpus, memory_gib=0.1)
        return RaySettings(
            self.address, self.ingress, replicas=replicas, needs=needs, placement_seconds=placement_seconds
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short, since Ray's sockets are in it
    quick = folder / "quick"
    quick.mkdir()
    (quick / "rfc3987_syntax.py").write_text(SLOW_IMPORT)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(quick))
        env = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
        argv = [sys.executable, str(PROGRAM), str(folder), str(port)]
        with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin
            assert program.stdout
            address = program.stdout.readline().decode().strip()
            assert address, "the cluster did not start"
            yield RayCluster(address, f"http://127.0.0.1:{port}", folder, program.pid)
            processes = children(program.pid)
            program.stdin.close()
            program.wait(SECONDS)
        _, alive = psutil.wait_procs(processes, SECONDS)
    shutil.rmtree(folder)
    assert alive == []


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def storage(storage: Storage) -> Storage:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    return storage


def engine_of(agent: Agent) -> RayEngine:
    serving = agent.serving("dep_1")
    assert serving is not None
    assert isinstance(serving.engine, RayEngine)
    return serving.engine


async def replicas(engine: RayEngine, count: int) -> None:
    await wait_until(lambda: engine.replicas == count, seconds=SECONDS)


async def test_a_deployment_on_a_cluster(
    peer: Peer, storage: Storage, tmp_path: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.patience = SECONDS
    async with running_agent(peer, storage, tmp_path, "ray", cluster.settings()) as agent:
        await peer.want(wanted(storage))
        await ready(peer)
        assert list(tmp_path.glob("weights/*")) == [], "the agent's machine needs no weights"
        engine = engine_of(agent)
        await answers_and_streams_over_the_link(peer)
        await counts_as_the_engine_does(engine)
        await only_the_agent_gets_an_answer(engine)
        await under_load_it_scales_to_its_bound(engine, cluster, storage)
        await a_replica_that_dies_is_replaced_and_never_serves_a_damaged_file(engine, cluster, storage, monkeypatch)
        await peer.want(revision=2)
        assert (await peer.expect(Released)).deployment_id == "dep_1"
        assert cluster.copies == []
        assert await status(engine) == 404, "the application is gone"
        assert list(tmp_path.glob("ray/*")) == []
    await it_says_why_it_cannot_serve(storage, tmp_path, cluster)
    monkeypatch.setenv("MODELSHARE_ENGINE_ENV", "RAY_*")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # instead of a minute
    await it_notices_that_the_cluster_is_gone(storage, tmp_path, cluster)


async def answers_and_streams_over_the_link(peer: Peer) -> None:
    await peer.ask(ask(max_tokens=4), stream=1)
    assert (await peer.expect(Answer)).status == 200
    await peer.ask(ask(max_tokens=50, stream=True), stream=2, timeout=120)
    body, end = await read_stream(peer, 2)
    assert end.error is None
    assert body.endswith(b"data: [DONE]\n\n")


async def counts_as_the_engine_does(engine: Engine) -> None:
    answer, usage = await ask_engine(engine, **HELLO, max_tokens=4)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (15, 4, False)
    assert answer["usage"]["total_tokens"] == 19


async def only_the_agent_gets_an_answer(engine: Engine) -> None:
    assert await status(engine) == 401
    assert await status(engine, {"Authorization": "Bearer guessed"}) == 401


async def under_load_it_scales_to_its_bound(engine: RayEngine, cluster: RayCluster, storage: Storage) -> None:
    """And each node pulls once."""
    assert len(cluster.copies) == len(storage.requests) == 1
    assert engine.turns.slots == 4
    counts: Counts = []
    async with aclosing(stream(engine, counts, **HELLO, max_tokens=2000)) as first:
        await anext(first)
        asking = [asyncio.create_task(keep_busy(engine)) for _ in range(3)]
        await replicas(engine, 2)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    assert engine.turns.slots == 8
    assert len(cluster.copies) == len(storage.requests) == 2


async def keep_busy(engine: Engine) -> None:
    while True:
        await ask_engine(engine, **HELLO, max_tokens=500)


async def a_replica_that_dies_is_replaced_and_never_serves_a_damaged_file(
    engine: RayEngine, cluster: RayCluster, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[int] = []

    def enter(state: State) -> None:
        states.append(state.replicas)
        RayEngine._enter(engine, state)

    monkeypatch.setattr(engine, "_enter", enter)
    for path in cluster.copies:
        data = bytearray(path.read_bytes())
        data[8] ^= 1
        path.write_bytes(data)
    victim = next(process for process in psutil.process_iter() if is_replica(process))
    victim.send_signal(signal.SIGKILL)
    await wait_until(lambda: 1 in states, seconds=SECONDS)
    answer, _ = await ask_engine(engine, **HELLO, max_tokens=4)
    assert answer["usage"]["completion_tokens"] == 4
    await replicas(engine, 2)
    assert len(storage.requests) == 3
    good = storage.file("model.gguf").sha256
    assert good in {hashlib.sha256(path.read_bytes()).hexdigest() for path in cluster.copies}


def is_replica(process: psutil.Process) -> bool:
    return any("ServeReplica:modelshare-dep_1" in word for word in process.cmdline())


async def status(engine: Engine, headers: Mapping[str, str] = NO_HEADERS) -> int:
    """Of a request straight to Serve's proxy."""
    url = f"{engine.base_url}/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(url, json=HELLO, headers=headers) as answer:
        return answer.status


async def it_says_why_it_cannot_serve(storage: Storage, folder: Path, cluster: RayCluster) -> None:
    with pytest.raises(EngineError, match=r"which needs 4 CPUs and .*; the most that a node has is 1 CPU and "):
        await start(storage, folder, cluster.settings(cpus=4))
    storage.corrupt["model.gguf"] = 1000
    with pytest.raises(EngineError, match=r"model\.gguf"):
        await start(storage, folder, cluster.settings())
    assert cluster.copies == []


async def it_notices_that_the_cluster_is_gone(storage: Storage, folder: Path, cluster: RayCluster) -> None:
    engine = made(storage, folder, cluster.settings(cpus=4, placement_seconds=600))
    starting = asyncio.create_task(engine.start())
    await wait_until(lambda: engine._state is not None, seconds=SECONDS)
    for process in (*children(cluster.pid), psutil.Process(cluster.pid)):
        process.kill()
    with pytest.raises(EngineError, match="cluster"):
        await starting


def made(storage: Storage, folder: Path, settings: RaySettings) -> RayEngine:
    engine = EngineSource(folder, "ray", ray=settings).on_cluster(wanted(storage, "dep_2"), storage.grant)
    assert isinstance(engine, RayEngine)
    return engine


async def start(storage: Storage, folder: Path, settings: RaySettings) -> None:
    engine = made(storage, folder, settings)
    await engine.start()
    await engine.stop()


async def test_a_cluster_that_is_not_there(storage: Storage, tmp_path: Path) -> None:
    settings = RaySettings(f"127.0.0.1:{free_port()}")
    with pytest.raises(EngineError, match=r"^No Ray cluster answers at 127.0.0.1:\d+: Connection refused\.$"):
        await start(storage, tmp_path, settings)
