"""A whole agent with the real llama.cpp engine: from the wish to the answer, and to the deletion."""

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent.agents import ask, pids_under, read_stream, ready, running_agent, tiny_gguf, wanted
from agent.peer import Peer
from agent.support import Storage, wait_until
from modelshare.agent.engines.sharing import FEW_SLOTS
from modelshare.demo.tiny_model import REPLY
from modelshare.wire import signing
from modelshare.wire.agents import Phase
from modelshare.wire.link import (
    Answer,
    Cancel,
    Chunk,
    Credit,
    DeploymentLoad,
    DeploymentSignature,
    Desired,
    DesiredDeployment,
    Head,
    Ping,
    Released,
    Report,
)
from signing_keys import private_key, public_pem

pytestmark = pytest.mark.anyio


@pytest.fixture
def storage(storage: Storage) -> Storage:
    storage.files["model.gguf"] = tiny_gguf(loop=False)
    return storage


async def test_from_the_wish_to_the_answer_to_the_deletion(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        report = await peer.expect(Report, lambda one: one.phase == Phase.READY)
        seen = [one.phase for one in peer.frames if isinstance(one, Report)]
        assert list(dict.fromkeys(seen)) == [Phase.WAITING, Phase.PULLING, Phase.VERIFYING, Phase.LOADING]
        assert report.routes == ["chat/completions", "completions"]
        assert report.bytes_done == report.bytes_total == len(storage.files["model.gguf"])
        load = (await peer.expect(Ping, lambda one: bool(one.loads))).loads
        assert load == [DeploymentLoad(report.deployment_id, FEW_SLOTS, 0, 0)]

        await peer.ask(ask(), stream=1)
        answer = await peer.expect(Answer)
        body = json.loads(answer.data)
        assert (answer.status, answer.content_type, body["model"]) == (200, "application/json", "acme/tiny")
        assert body["choices"][0]["message"]["content"] == REPLY
        assert (answer.prompt_tokens, answer.completion_tokens) == tuple(
            body["usage"][key] for key in ("prompt_tokens", "completion_tokens")
        )

        await peer.ask(ask(stream=True), stream=2)
        streamed, end = await read_stream(peer, 2)
        assert (await peer.expect(Head)).content_type == "text/event-stream; charset=utf-8"
        assert streamed.endswith(b"data: [DONE]\n\n")
        deltas = [json.loads(line[6:]) for line in streamed.decode().splitlines() if line.startswith("data: {")]
        assert "".join(one["choices"][0]["delta"].get("content") or "" for one in deltas) == REPLY
        assert (end.error, end.completion_tokens) == (None, answer.completion_tokens)

        await peer.want(revision=2)
        await peer.expect(Released)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        await peer.ask(ask(), stream=3)
        refused = await peer.expect(Answer)
        assert (refused.status, refused.refused) == (503, True)

        await peer.send(Desired(3, [], unconfirmed=["dep_1", "dep_of_an_earlier_run"]))
        assert {(await peer.expect(Released)).deployment_id for _ in range(2)} == {"dep_1", "dep_of_an_earlier_run"}


async def test_nothing_is_fetched_or_loaded_under_a_wrong_signature(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    files = {file.path: file.sha256 for file in storage.manifest()}
    good = signing.sign(private_key(), files, "tiny")
    wrong = signing.sign(private_key(), dict.fromkeys(files, "0" * 64), "tiny")

    def signed(bundle: bytes) -> DesiredDeployment:
        signature = DeploymentSignature(bundle, [public_pem(private_key())])
        return msgspec.structs.replace(wanted(storage), signature=signature)

    async with running_agent(peer, storage, tmp_path):
        await peer.want(signed(wrong))
        failed = await peer.expect(Report, lambda one: one.phase == Phase.FAILED)
        assert "model.gguf is changed since it was signed" in (failed.reason or "")
        assert storage.requests == []
        await peer.want(signed(good), revision=2)
        await ready(peer)


async def test_a_pull_waits_for_the_owners_machine_without_counting_as_failed(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    storage.is_owner_away = True
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await peer.expect(Report, lambda one: one.phase == Phase.PULLING)
        waiting = await peer.expect(Report, lambda one: one.phase == Phase.WAITING and one.reason is not None)
        assert waiting.reason == "The pull waits. The machine is not connected."
        storage.is_owner_away = False
        await ready(peer)
        assert not [frame for frame in peer.frames if isinstance(frame, Report) and frame.phase is Phase.FAILED]


async def test_what_is_still_here_is_not_said_to_be_deleted(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await peer.expect(Report, lambda one: one.phase == Phase.READY)
        await peer.send(Desired(2, [wanted(storage)], unconfirmed=["dep_1", "gone"]))
        assert (await peer.expect(Released)).deployment_id == "gone"
        assert not [frame for frame in peer.frames if isinstance(frame, Released)]


@pytest.mark.parametrize(
    ("route", "body", "status", "words"),
    [
        ("embeddings", ask(input="x"), 404, "This model serves chat/completions, completions, not embeddings."),
        ("metrics", b"{}", 404, "not metrics"),
        ("chat/completions", b"[1]", 400, "must be a JSON object"),
        ("chat/completions", b'{"messages": 5}', 400, ""),
    ],
)
async def test_what_cannot_be_answered_is_refused_in_words(
    peer: Peer, storage: Storage, tmp_path: Path, route: str, body: bytes, status: int, words: str
) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
        await peer.ask(body, route=route)
        answer = await peer.expect(Answer)
        error = json.loads(answer.data)["error"]
        assert (answer.status, error["type"] != "") == (status, True)
        assert words in error["message"]
        assert str(tmp_path) not in error["message"]


async def test_cancel_frees_the_engine_at_once(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    async with running_agent(peer, storage, tmp_path) as agent:
        await peer.want(wanted(storage))
        await ready(peer)
        await peer.ask(ask(stream=True, max_tokens=2000), credit=400)
        await peer.expect(Chunk)
        serving = agent.serving("dep_1")
        assert serving is not None
        await peer.send(Cancel(1))
        await wait_until(lambda: serving.engine.activity.running == 0)
        async with asyncio.timeout(60):
            while (load := await serving.engine.load()) is None or load.running:  # noqa: ASYNC110 - the engine's own account
                await asyncio.sleep(0.02)


async def test_a_request_out_of_time_is_answered(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    async with running_agent(peer, storage, tmp_path) as agent:
        await peer.want(wanted(storage))
        await ready(peer)
        (engine,) = pids_under(tmp_path)
        os.kill(engine, signal.SIGSTOP)
        await peer.ask(ask(max_tokens=2000), stream=1, timeout=0.02)
        answer = await peer.expect(Answer)
        os.kill(engine, signal.SIGCONT)
        assert (answer.status, json.loads(answer.data)["error"]["type"]) == (504, "server_error")
        await peer.ask(ask(max_tokens=2000, stream=True), stream=2, timeout=60, credit=100)
        await peer.expect(Head, lambda one: one.stream == 2)
        (exchange,) = agent._relay._open
        exchange._deadline = 0.0
        _, end = await read_stream(peer, 2)
        assert end.error == "No complete answer within 60 s."


async def test_a_killed_engine_is_told_and_comes_back(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
        (pid,) = pids_under(tmp_path)
        os.kill(pid, signal.SIGKILL)
        failed = await peer.expect(Report, lambda one: one.phase == Phase.FAILED)
        assert failed.reason
        await ready(peer)
        await peer.ask(ask())
        assert (await peer.expect(Answer)).status == 200
    assert storage.requests == ["model.gguf"]
    assert pids_under(tmp_path) == []


async def test_a_new_version_serves_before_the_old_one_goes(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    old = wanted(storage, "dep_1")
    new = wanted(storage, "dep_2", digest="b")
    async with running_agent(peer, storage, tmp_path):
        await peer.want(old)
        await ready(peer, "dep_1")
        await peer.want(old, new, revision=2)
        await ready(peer, "dep_2")
        await peer.want(new, revision=3)
        await peer.expect(Released, lambda one: one.deployment_id == "dep_1")
        await peer.ask(ask(), deployment="dep_2")
        assert (await peer.expect(Answer)).status == 200
    assert storage.requests == ["model.gguf"]  # the same bytes: pulled once, and kept for the new one


async def test_a_stream_outlives_its_deployment(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    """What is in progress ends as it would have; what comes now is refused, so that it can go elsewhere."""
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
        await peer.ask(ask(stream=True, max_tokens=50), stream=1, credit=400, timeout=120)  # it waits for more credit
        await peer.expect(Head)
        await peer.want(revision=2)
        await peer.expect(Report, lambda one: one.phase == Phase.WAITING)
        await peer.ask(ask(), stream=2)
        late = await peer.expect(Answer)
        assert (late.status, late.refused, json.loads(late.data)["error"]["code"]) == (503, True, "model_loading")
        assert pids_under(tmp_path), "the engine works on"
        await peer.send(Credit(1, 1 << 20))
        streamed, end = await read_stream(peer)
        assert streamed.endswith(b"data: [DONE]\n\n")
        assert (end.error, end.completion_tokens) == (None, 50)
        await peer.expect(Released)
    assert pids_under(tmp_path) == []


async def test_an_agent_that_stops_waits_no_longer_for_what_it_has_let_go_of(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    async with running_agent(peer, storage, tmp_path) as agent:
        await peer.want(wanted(storage))
        await ready(peer)
        await peer.ask(ask(stream=True, max_tokens=50), stream=1, credit=400, timeout=120)
        await peer.expect(Head)
        await peer.want(revision=2)
        await peer.expect(Report, lambda one: one.phase == Phase.WAITING)
        async with asyncio.timeout(60):
            await agent.stop(grace=0.1)
        assert pids_under(tmp_path) == []


async def test_a_model_that_does_not_fit_beside_one_that_serves_waits(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    old, new = wanted(storage, "dep_1"), wanted(storage, "dep_2", digest="b")
    async with running_agent(peer, storage, tmp_path) as agent:
        agent._deployments._context = replace(agent._deployments._context, retry_first=0.1)
        agent._deployments._context.memory._total = len(storage.files["model.gguf"]) * 3 // 2
        await peer.want(old)
        await ready(peer, "dep_1")
        await peer.want(old, new, revision=2)
        failed = await peer.expect(Report, lambda one: one.phase == Phase.FAILED)
        assert failed.deployment_id == "dep_2"
        assert "The model needs 531.2 kB of memory" in (failed.reason or "")
        await peer.ask(ask(), deployment="dep_1")
        assert (await peer.expect(Answer)).status == 200
        await peer.want(new, revision=3)
        await ready(peer, "dep_2")


async def test_a_renamed_model_keeps_its_engine(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
        before = pids_under(tmp_path)
        await peer.want(wanted(storage, served_name="acme/renamed"), revision=2)
        await ready(peer)
        await peer.ask(ask())
        assert json.loads((await peer.expect(Answer)).data)["model"] == "acme/renamed"
        assert pids_under(tmp_path) == before


async def test_a_request_in_progress_ends_well_when_its_deployment_goes(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
        await peer.ask(ask(stream=True, max_tokens=100), timeout=120)
        await peer.expect(Chunk)
        await peer.want(revision=2)
        await peer.expect(Report, lambda one: one.phase == Phase.WAITING)
        streamed, end = await read_stream(peer)
        assert end.error is None
        assert streamed.endswith(b"data: [DONE]\n\n")
        await peer.expect(Released)


async def test_weights_damaged_on_the_disk_are_found_and_pulled_again(
    peer: Peer, storage: Storage, tmp_path: Path
) -> None:
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
    blob = tmp_path / "weights" / storage.file("model.gguf").sha256
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.write(b"XXXX")
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
    assert storage.requests == ["model.gguf"] * 2


async def test_a_byte_that_changed_silently_is_never_served(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    """Neither the file's size nor its times tell, and the engine starts with it."""
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        await ready(peer)
    blob = tmp_path / "weights" / storage.file("model.gguf").sha256
    before = blob.stat()
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(bytes([storage.files["model.gguf"][-3] ^ 1]))
    blob.chmod(0o400)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        report = await peer.expect(Report, lambda one: one.phase in {Phase.FAILED, Phase.READY})
        assert report.reason == "model.gguf was damaged on the disk of the agent's machine, and will be pulled again."
        await ready(peer)
        assert blob.read_bytes() == storage.files["model.gguf"]
    assert storage.requests == ["model.gguf"] * 2


async def test_a_deployment_that_cannot_be_says_why(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": b"GGUF but not really"}
    async with running_agent(peer, storage, tmp_path):
        await peer.want(wanted(storage))
        failed = await peer.expect(Report, lambda one: one.phase == Phase.FAILED)
        assert failed.reason
        assert str(tmp_path) not in failed.reason


async def test_progress_is_told_at_most_twice_a_second(peer: Peer, storage: Storage, tmp_path: Path) -> None:
    storage.files["extra.bin"] = os.urandom(100 << 20)
    async with running_agent(peer, storage, tmp_path):
        started = asyncio.get_running_loop().time()
        await peer.want(wanted(storage))
        await peer.expect(Report, lambda one: one.phase == Phase.VERIFYING)
        elapsed = asyncio.get_running_loop().time() - started
        told = [one.bytes_done for one in peer.frames if isinstance(one, Report) and one.phase == Phase.PULLING]
        assert 1 <= len(told) <= 2 + 2 * elapsed
        assert told == sorted(told)
