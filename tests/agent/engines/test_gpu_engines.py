"""vLLM and SGLang, each by a stand-in that takes the same options and behaves as they do."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.agents import pids_under
from agent.engines.conftest import Started
from agent.engines.processes import in_session
from agent.engines.relay import HELLO, PUBLIC_NAME, Counts, answered, ask, prepared, said, stream
from agent.support import wait_until
from modelshare.agent.engines import sglang, vllm
from modelshare.agent.engines.base import EngineError, EngineSpec, Format, Load, Route, Task
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.recipe import Recipe
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.engines.watch import Timing

pytestmark = pytest.mark.anyio

RECIPES = {"vllm": vllm.recipe, "sglang": sglang.recipe}


@pytest.fixture(params=RECIPES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def recipe_for(kind: str, folder: Path, model: Path, task: Task = Task.CHAT) -> Recipe:
    program = folder / kind
    program.write_text(f"#!{sys.executable}\n" + Path(__file__).with_name("stand_in.py").read_text())
    program.chmod(0o755)
    spec = EngineSpec(path=model, served_name=PUBLIC_NAME, format=Format.SAFETENSORS, task=task)
    return replace(RECIPES[kind](spec, str(program)), stop_seconds=0.5)


async def test_serves(kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path, started: Started) -> None:
    engine = await started(ProcessEngine(recipe_for(kind, tmp_path, chat_hf), state_dir))

    answer, usage = await ask(engine, **HELLO)
    counts: Counts = []
    events = b"".join([piece async for piece in stream(engine, counts, **HELLO)])

    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert usage == counts[0].usage == TokenUsage(1, 2)
    assert said(events) == "Hello."
    assert await engine.load() == Load(2, 1)
    assert await engine.health()


async def test_embeds(kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path, started: Started) -> None:
    recipe = recipe_for(kind, tmp_path, chat_hf, Task.EMBEDDING)
    engine = await started(ProcessEngine(recipe, state_dir))

    assert (await ask(engine, Route.EMBEDDINGS, input="x"))[0]["data"]


async def test_stopping_ends_the_process_that_would_keep_the_gpu(
    kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path
) -> None:
    engine = ProcessEngine(recipe_for(kind, tmp_path, chat_hf), state_dir)
    await engine.start()
    (leader,) = pids_under(state_dir)
    assert len(in_session(leader)) >= 3  # the launcher, the engine, and what holds the GPU

    await engine.stop()

    assert not in_session(leader)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("out of memory", "does not fit into the memory of this machine"),
        ("out of memory when asked", "does not fit into the memory of this machine"),
        ("no answer", "answered a test request with status 500"),
    ],
)
async def test_a_failed_start_is_told_in_words_and_leaves_nothing(
    trouble: str,
    reason: str,
    kind: str,
    tmp_path: Path,
    chat_hf: Path,
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_FAILURE", trouble)

    with pytest.raises(EngineError, match=reason):
        await ProcessEngine(recipe_for(kind, tmp_path, chat_hf), state_dir).start()

    assert not list((state_dir / "engines").iterdir())


@pytest.mark.parametrize("trouble", ["hangs", "falls silent"])
async def test_an_engine_that_does_not_answer_any_more_is_found_out(
    trouble: str,
    kind: str,
    tmp_path: Path,
    chat_hf: Path,
    state_dir: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_FAILURE", trouble)
    monkeypatch.setenv("STAND_IN_FAILURE_FROM", str(tmp_path / "now"))
    recipe = replace(recipe_for(kind, tmp_path, chat_hf), health_seconds=1.0)
    timing = Timing(watch=0.05, recent=0.0, idle_probe=0.0, strikes=2)
    engine = await started(ProcessEngine(recipe, state_dir, timing=timing))
    died = asyncio.create_task(engine.died())
    assert not (await asyncio.wait({died}, timeout=0.5))[0]

    (tmp_path / "now").touch()

    assert (await asyncio.wait_for(died, 60)).startswith("The engine is not responding.")


async def test_a_busy_engine_is_not_asked_for_more(
    kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_FAILURE", "falls silent")
    monkeypatch.setenv("STAND_IN_FAILURE_FROM", str(tmp_path / "now"))
    timing = Timing(watch=0.02, recent=0.0, idle_probe=0.0, strikes=1)
    engine = await started(ProcessEngine(recipe_for(kind, tmp_path, chat_hf), state_dir, timing=timing))
    (tmp_path / "now").touch()

    with engine.activity.request():
        died = asyncio.create_task(engine.died())
        assert not (await asyncio.wait({died}, timeout=0.5))[0]
    await asyncio.wait_for(died, 60)


async def test_a_slow_start_has_an_end(kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path) -> None:
    recipe = replace(recipe_for(kind, tmp_path, chat_hf), health_path="/never", start_seconds=1.0)

    with pytest.raises(EngineError, match="was not ready after"):
        await ProcessEngine(recipe, state_dir).start()


async def test_giving_up_a_start_leaves_nothing(kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path) -> None:
    engine = ProcessEngine(replace(recipe_for(kind, tmp_path, chat_hf), health_path="/never"), state_dir)
    start = asyncio.create_task(engine.start())
    await wait_until(lambda: any(len(in_session(leader)) >= 3 for leader in pids_under(state_dir)))
    (leader,) = pids_under(state_dir)

    start.cancel()
    await asyncio.wait({start})

    assert start.cancelled()
    assert not in_session(leader)


@pytest.mark.parametrize("trouble", ["takes and gives nothing", "is slow"])
async def test_an_engine_that_gives_nothing_is_found_out_and_a_slow_one_is_not(
    trouble: str,
    kind: str,
    tmp_path: Path,
    chat_hf: Path,
    state_dir: Path,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_FAILURE", trouble)
    monkeypatch.setenv("STAND_IN_FAILURE_FROM", str(tmp_path / "now"))
    timing = Timing(watch=0.05, recent=0.0, silent=1.0, strikes=2)
    engine = await started(ProcessEngine(recipe_for(kind, tmp_path, chat_hf), state_dir, timing=timing))
    (tmp_path / "now").touch()
    died = asyncio.create_task(engine.died())

    with engine.activity.request(), engine.activity.asking(0):
        found, _ = await asyncio.wait({died}, timeout=2 if trouble == "is slow" else 60)

    assert bool(found) == (trouble != "is slow")
    assert await engine.health(), "its health route says that it is well"
    died.cancel()


async def test_each_project_has_a_prompt_cache_of_its_own(
    kind: str, tmp_path: Path, chat_hf: Path, state_dir: Path, started: Started
) -> None:
    engine = await started(ProcessEngine(recipe_for(kind, tmp_path, chat_hf), state_dir))

    async def salt(tenant: str) -> str:
        """What the engine was told."""
        request = prepared(engine, Route.CHAT, **HELLO)
        answer = b"".join([piece async for piece in answered(engine, request, [], tenant)])
        told: str = json.loads(answer)["choices"][0]["message"]["refusal"]
        return told

    assert [await salt("a"), await salt("b"), await salt("a")] == ["a", "b", "a"]
    assert await salt("") != await salt(""), "nothing is kept for nobody"
