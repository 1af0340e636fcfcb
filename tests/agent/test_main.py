"""The program itself, in a process of its own: enrolling, signals, kill -9, removal, and the lines it ends with."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from agent.agents import agent_process, ask, ends_with, pids_under, read_stream, ready, tiny_gguf, wanted
from agent.peer import VERDICT_KEY, Peer
from agent.support import Storage, wait_until
from modelshare.wire.agents import Phase
from modelshare.wire.link import Answer, Chunk, CloseCode, Credit, Hello, Report
from modelshare.wire.verdict import Verdict

pytestmark = pytest.mark.anyio


@pytest.fixture
def peer(peer: Peer, storage: Storage) -> Peer:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    peer.grant = storage.grant
    return peer


async def test_it_enrolls_once_and_a_killed_one_comes_back_with_its_weights(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    async with agent_process(peer, tmp_path) as first:
        hello = await peer.expect(Hello)
        assert "llamacpp" in hello.engines
        await peer.want(wanted(storage))
        await ready(peer)
        engine = psutil.Process(pids_under(tmp_path)[0])
        first.kill()
        await first.wait()
    await wait_until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE)
    async with agent_process(peer, tmp_path, join_key=""):
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await ready(peer)
        assert len(pids_under(tmp_path)) == 1
    assert len(peer.enrolled) == 1
    assert peer.enrolled[0].capabilities.engines == hello.engines
    assert storage.requests == ["model.gguf"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_requests_finish_and_leaves_no_engine(
    peer: Peer, storage: Storage, tmp_path: Path, number: signal.Signals
) -> None:
    async with agent_process(peer, tmp_path) as agent:
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await ready(peer)
        (engine,) = pids_under(tmp_path)
        await peer.ask(ask(stream=True, max_tokens=100), stream=1, timeout=120, credit=400)
        first = await peer.expect(Chunk)
        agent.send_signal(number)
        stopping = await peer.expect(Report, lambda one: one.phase == Phase.WAITING)
        assert stopping.reason == "The deployment is stopping."
        await peer.ask(ask(), stream=2)
        assert (await peer.expect(Answer)).status == 503
        await peer.send(Credit(1, 1 << 20))
        streamed, end = await read_stream(peer, 1)
        assert end.error is None
        assert (first.data + streamed).endswith(b"data: [DONE]\n\n")
        code, said = await ends_with(agent)
        assert code == 0, said
        assert not psutil.pid_exists(engine)
    assert (tmp_path / "weights" / storage.file("model.gguf").sha256).exists()


async def test_a_second_signal_cuts_requests_off(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with agent_process(peer, tmp_path) as agent:
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await ready(peer)
        await peer.ask(ask(stream=True, max_tokens=2000), credit=100)  # waits for credit that never comes
        await peer.expect(Chunk)
        agent.send_signal(signal.SIGINT)
        await peer.expect(Report, lambda one: one.phase == Phase.WAITING)
        agent.send_signal(signal.SIGINT)
        code, said = await asyncio.wait_for(ends_with(agent), 15)
        assert code == 0, said


async def test_a_folder_that_cannot_be_used_is_told(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with agent_process(peer, tmp_path / "file") as agent:
        code, said = await ends_with(agent)
    assert code == 1
    assert "Cannot use" in said


async def test_a_removed_agent_deletes_everything_and_says_so(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with agent_process(peer, tmp_path) as agent:
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await ready(peer)
        peer.verdict, peer.refuse_with = Verdict.REMOVED, 403
        assert peer.socket is not None
        await peer.socket.close(code=CloseCode.REMOVED, message=b"removed")
        code, said = await ends_with(agent)
    assert code == 1
    assert said.splitlines()[-1].endswith("error: This agent was removed from the server. Its weights are deleted.")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["agent.lock"]


async def test_nobody_but_its_own_platform_makes_an_agent_give_up(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with agent_process(peer, tmp_path) as agent:
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await ready(peer)
        peer.verdict, peer.verdict_key, peer.refuse_with = Verdict.REMOVED, "00" * 32, 403
        peer.welcome_key = "00" * 32  # what it learned when it enrolled is not replaced
        assert peer.socket is not None
        await peer.socket.close(code=CloseCode.REMOVED, message=b"removed")
        await wait_until(lambda: peer.refusals > 1)
        peer.refuse_with = None
        await peer.expect(Hello)
        assert peer.socket is not None
        await peer.socket.close(code=CloseCode.REMOVED, message=b"removed")
        await peer.expect(Hello)
        await peer.want(wanted(storage))
        await ready(peer)
        peer.verdict, peer.verdict_key, peer.refuse_with = Verdict.UNKNOWN, VERDICT_KEY, 401
        await peer.socket.close(code=1000, message=b"")
        code, said = await ends_with(agent)
    assert code == 1
    assert "The server does not know this agent." in said.splitlines()[-1]
    assert (tmp_path / "weights" / storage.file("model.gguf").sha256).exists()


async def test_a_second_agent_on_the_same_folder_is_told(peer: Peer, tmp_path: Path) -> None:
    async with agent_process(peer, tmp_path) as first:
        await peer.expect(Hello)
        async with agent_process(peer, tmp_path) as second:
            code, said = await ends_with(second)
        assert code == 1
        assert f"Another agent (process {first.pid}) is running on {tmp_path}. Stop it" in said


@pytest.mark.parametrize(
    ("join_key", "words"),
    [
        ("", "Provide a join key (MODELSHARE_JOIN_KEY=msj_..., or --join-key-file)."),
        ("msj_bad", "The server refused to enrol this agent: The join key was revoked."),
    ],
)
async def test_without_a_good_join_key_it_says_what_to_do(
    peer: Peer, tmp_path: Path, join_key: str, words: str
) -> None:
    async with agent_process(peer, tmp_path, join_key) as agent:
        code, said = await ends_with(agent)
    assert code == 1
    assert said.count("\n") == 1
    assert words in said


async def test_a_server_that_is_not_there_yet_is_waited_for_and_a_signal_ends_that(peer: Peer, tmp_path: Path) -> None:
    peer.url = "http://127.0.0.1:9"
    async with agent_process(peer, tmp_path) as agent:
        assert agent.stderr is not None
        assert b"Cannot reach http://127.0.0.1:9" in await agent.stderr.readline()
        agent.send_signal(signal.SIGTERM)
        code, _ = await ends_with(agent)
    assert code == 0
