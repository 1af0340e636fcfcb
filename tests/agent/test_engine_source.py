"""Which engine a deployment gets on this machine, and what is said when it gets none."""

import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agent.agents import ask, ready, running_agent, wanted
from agent.peer import Peer
from agent.support import Storage
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.engines.base import ExternalServer
from modelshare.agent.errors import DeploymentError, StopError
from modelshare.demo.tiny_model import REPLY, write_hf
from modelshare.wire.agents import Phase
from modelshare.wire.link import Answer, DesiredDeployment, Report

pytestmark = pytest.mark.anyio


@pytest.fixture
def safetensors(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> DesiredDeployment:
    folder = tmp_path_factory.mktemp("hf")
    write_hf(folder)
    storage.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return msgspec.structs.replace(wanted(storage), format="safetensors")


async def test_safetensors_are_converted_once_and_answer_the_same(
    peer: Peer, storage: Storage, tmp_path: Path, safetensors: DesiredDeployment
) -> None:
    converting = []
    for _ in range(2):
        async with running_agent(peer, storage, tmp_path):
            await peer.want(safetensors)
            await peer.expect(Report, lambda one: one.phase == Phase.LOADING)
            converting.append(any(isinstance(one, Report) and one.phase == Phase.CONVERTING for one in peer.frames))
            await ready(peer)
            await peer.ask(ask())
            answer = json.loads((await peer.expect(Answer)).data)
            assert answer["choices"][0]["message"]["content"] == REPLY
    assert converting == [True, False]


async def test_a_model_that_no_engine_here_serves_is_told_for_each_engine(
    tmp_path: Path, safetensors: DesiredDeployment
) -> None:
    source = EngineSource(tmp_path, None, None)
    pickle = msgspec.structs.replace(safetensors, format="pickle", task="embedding")
    with pytest.raises(DeploymentError, match=r"No engine on this machine can serve the model\. .*llamacpp: .*vllm: "):
        await source.prepare(pickle, tmp_path, tmp_path, lambda _: None)


async def test_what_is_not_converted_gets_the_next_engine(tmp_path: Path, safetensors: DesiredDeployment) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    write_hf(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"model.extra_head.weight": np.zeros((4, 4), np.float32)}, folder / "model.safetensors")
    engine = await EngineSource(tmp_path, None, None).prepare(safetensors, folder, tmp_path, lambda _: None)
    assert engine.kind == "transformers"


async def test_whole_numbers_written_as_fractions_are_converted(tmp_path: Path, safetensors: DesiredDeployment) -> None:
    folder = tmp_path / "model"
    write_hf(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 2048.0, "initializer_range": float("nan"), "logit_scale": float("inf")}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "scratch").mkdir()
    engine = await EngineSource(tmp_path, None, None).prepare(safetensors, folder, tmp_path / "scratch", lambda _: None)
    assert engine.kind == "llamacpp"


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, last_words: str) -> None:
    """A `vllm` that does not start."""
    program = folder / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{last_words}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


async def test_an_engine_that_does_not_start_is_followed_by_the_next(
    peer: Peer, storage: Storage, tmp_path: Path, safetensors: DesiredDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "RuntimeError: engine core initialization failed")
    async with running_agent(peer, storage, tmp_path, engine="vllm"):
        await peer.want(safetensors)
        await ready(peer)
        await peer.ask(ask())
        answer = json.loads((await peer.expect(Answer)).data)
    assert answer["choices"][0]["message"]["content"] == REPLY


async def test_memory_that_ran_out_is_not_asked_of_another_engine(
    peer: Peer, storage: Storage, tmp_path: Path, safetensors: DesiredDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "torch.OutOfMemoryError: CUDA out of memory.")
    async with running_agent(peer, storage, tmp_path, engine="vllm"):
        await peer.want(safetensors)
        report = await peer.expect(Report, lambda one: one.phase == Phase.FAILED)
    assert "does not fit into the memory" in (report.reason or "")


async def test_where_all_fail_all_reasons_are_told(tmp_path: Path, safetensors: DesiredDeployment) -> None:
    write_hf(tmp_path / "model")
    failed = {"llamacpp": "It fell over.", "transformers": "It did too."}
    with pytest.raises(DeploymentError, match=r"llamacpp: It fell over\..* vllm: it is not installed"):
        await EngineSource(tmp_path, None, None).prepare(
            safetensors, tmp_path / "model", tmp_path, lambda _: None, failed
        )


async def test_the_only_engine_that_could_has_the_last_word(tmp_path: Path, safetensors: DesiredDeployment) -> None:
    gguf = msgspec.structs.replace(safetensors, format="gguf")
    failed = {"llamacpp": "The engine cannot read it."}
    with pytest.raises(DeploymentError, match=r"^The engine cannot read it\.$"):
        await EngineSource(tmp_path, None, None).prepare(gguf, tmp_path, tmp_path, lambda _: None, failed)


@pytest.mark.parametrize("change", [{"format": "onnx"}, {"task": "juggling"}])
async def test_words_of_a_newer_server_are_told(
    tmp_path: Path, safetensors: DesiredDeployment, change: dict[str, str]
) -> None:
    with pytest.raises(DeploymentError, match=r"This agent does not support the .* Update it"):
        await EngineSource(tmp_path, None, None).prepare(
            msgspec.structs.replace(safetensors, **change), tmp_path, tmp_path, lambda _: None
        )


def test_an_external_server_is_used_where_one_is_given(tmp_path: Path) -> None:
    assert "external" in EngineSource(tmp_path, None, ExternalServer("http://127.0.0.1:9")).kinds()
    assert "external" not in EngineSource(tmp_path, None, None).kinds()


@pytest.mark.parametrize(
    ("name", "words"), [("lama", "There is no engine lama. Choose one of llamacpp"), ("sglang", "is not installed")]
)
def test_an_engine_that_cannot_be_had_is_told_at_the_start(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(StopError, match=words):
        EngineSource(tmp_path, name, None)
