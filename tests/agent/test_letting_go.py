"""Whatever went wrong before: a deployment that is not wanted any more goes, its weights too, and the agent says so."""

import asyncio
import random
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agent.agents import agent_process, ends_with, pids_under, ready, running_agent, tiny_gguf, wanted
from agent.peer import Peer
from agent.support import Storage, wait_until
from changing_folders import files_below
from modelshare.agent.errors import PullError
from modelshare.wire.agents import Grant, Phase
from modelshare.wire.link import Hello, Released, Report

pytestmark = pytest.mark.anyio


@pytest.fixture
def storage(storage: Storage) -> Storage:
    storage.files["model.gguf"] = tiny_gguf(loop=False)
    return storage


async def failed(peer: Peer, deployment_id: str = "dep_1") -> Report:
    return await peer.expect(Report, lambda one: one.deployment_id == deployment_id and one.phase == Phase.FAILED)


def files_under(folder: Path) -> list[Path]:
    return list(files_below(folder))


@pytest.mark.parametrize("recovers", [False, True])
async def test_after_a_failed_pull(peer: Peer, storage: Storage, tmp_path: Path, *, recovers: bool) -> None:
    storage.corrupt["model.gguf"] = 3 if recovers else 1000
    async with running_agent(peer, storage, tmp_path) as agent:
        agent._deployments._context = replace(agent._deployments._context, retry_first=0.01)
        await peer.want(wanted(storage))
        await failed(peer)
        if recovers:
            await ready(peer)
            assert pids_under(tmp_path)
        await peer.want(revision=2)
        assert (await peer.expect(Released)).deployment_id == "dep_1"
        assert pids_under(tmp_path) == []
        assert files_under(tmp_path) == []


@pytest.mark.parametrize("let_go", [False, True])
async def test_a_signal_ends_an_agent_whose_pulls_have_failed(
    peer: Peer, storage: Storage, tmp_path: Path, *, let_go: bool
) -> None:
    peer.grant = storage.grant
    storage.corrupt["model.gguf"] = 3
    async with agent_process(peer, tmp_path) as agent:
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await failed(peer)
        await ready(peer)
        (engine,) = pids_under(tmp_path)
        if let_go:
            await peer.want(revision=2)
        agent.send_signal(signal.SIGTERM)
        code, said = await ends_with(agent)
    assert code == 0, said
    assert not psutil.pid_exists(engine)


async def test_deployments_come_and_go_while_pulls_fail(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    """At random, with grants and bytes that are bad at random; in the end nothing is wanted, and nothing is left."""
    chance = random.Random(20)
    names = [f"dep_{number}" for number in range(6)]

    async def grant() -> Grant:
        await asyncio.sleep(0)
        if chance.random() < 0.3:
            raise PullError("The server grants nothing.")
        return await storage.grant()

    async def misfortune(path: str) -> None:
        await asyncio.sleep(chance.random() * 0.01)
        storage.corrupt[path] += chance.random() < 0.4

    storage.files = {f"part-{number}.bin": chance.randbytes(3000) for number in range(4)}
    storage.on_request = misfortune
    async with running_agent(peer, storage, tmp_path) as agent:
        peer.grant = grant
        for revision in range(60):
            now = [wanted(storage, name, digest=name[-1]) for name in names if chance.random() < 0.5]
            await peer.want(*now, revision=revision)
            await asyncio.sleep(chance.random() * 0.05)
        await peer.want(revision=1000)
        runner = agent._deployments
        await wait_until(lambda: not runner._deployments and not runner._ending)
        assert files_under(tmp_path) == []
        released = {frame.deployment_id for frame in peer.frames if isinstance(frame, Released)}
        assert released == set(names)


async def test_weights_that_cannot_be_deleted_at_once_are_deleted_later(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
        folder = tmp_path / "weights" / "in-the-way"
        folder.mkdir()  # cannot be unlinked: it stands for a disk that refuses
        await peer.want(revision=2)
        await wait_until(lambda: pids_under(tmp_path) == [])
        assert not [frame for frame in peer.frames if isinstance(frame, Released)]
        folder.rmdir()
        await peer.expect(Released)
        assert files_under(tmp_path) == []
