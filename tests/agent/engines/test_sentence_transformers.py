"""Embedding models in every age of sentence-transformers' format, served by llama.cpp: the vectors of the library."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.engines.relay import ask
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.engines.base import Engine, Route
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.wire.inference import BadInferenceRequestError
from modelshare.wire.link import DesiredDeployment

pytestmark = pytest.mark.anyio

CONTEXT = 128
NAMES = [
    *("saved-mean", "saved-cls-as-it-is", "saved-last", "saved-llama-last", "saved-llama-mean-as-it-is"),
    *("saved-short", "saved-prompt", "saved-dense", "saved-layers", "saved-cut", "saved-cased"),
    *("old-flags", "old-word", "old-cls-elsewhere", "old-short", "old-folder", "old-lower"),
]
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Made:
    folder: Path
    texts: list[str]
    vectors: dict[str, Vectors]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed")
    out = tmp_path_factory.mktemp("sentence")
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("sentence_models.py")), str(out)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(program, env=os.environ | paths, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "vectors.json").read_text())
    assert told["vectors"].keys() == set(NAMES)
    return Made(out, told["texts"], {name: np.array(vectors) for name, vectors in told["vectors"].items()})


def wanted() -> DesiredDeployment:
    return DesiredDeployment(
        deployment_id="d",
        manifest_digest="sha256:x",
        served_name="acme/tiny",
        version="1.0.0",
        format="safetensors",
        architecture="BertModel",
        task="embedding",
        context_length=CONTEXT,
        parameters=None,
        files=[],
        max_concurrent=1,
    )


async def serving(folder: Path, state: Path) -> Engine:
    engine = await EngineSource(state, None, None).prepare(wanted(), folder, state, lambda _: None)
    assert engine.kind == "llamacpp"
    await engine.start()
    return engine


async def vectors(engine: Engine, texts: Sequence[str]) -> Vectors:
    answer, usage = await ask(engine, Route.EMBEDDINGS, input=list(texts))
    assert usage.prompt_tokens > 0
    return np.array([entry["embedding"] for entry in answer["data"]])


def cosines(some: Vectors, others: Vectors) -> Vectors:
    found: Vectors = (some * others).sum(1) / np.linalg.norm(some, axis=1) / np.linalg.norm(others, axis=1)
    return found


@pytest.mark.parametrize("name", NAMES)
async def test_vectors_are_those_of_the_library(name: str, made: Made, tmp_path: Path) -> None:
    engine = await serving(made.folder / name, tmp_path)
    try:
        got = await vectors(engine, made.texts)
    finally:
        await engine.stop()
    assert cosines(got, made.vectors[name]).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), np.linalg.norm(made.vectors[name], axis=1), rtol=0.01)


def test_models_that_are_told_apart_differ(made: Made) -> None:
    """Else agreement would say nothing."""
    for name in ("saved-cls-as-it-is", "saved-last", "saved-short", "saved-prompt", "old-cls-elsewhere", "saved-cased"):
        assert cosines(made.vectors["saved-mean"], made.vectors[name]).min() < 0.99, name
    assert np.linalg.norm(made.vectors["saved-cls-as-it-is"], axis=1).min() > 1.5


async def test_what_is_longer_than_the_context_is_refused_and_tokens_are_no_texts(made: Made, tmp_path: Path) -> None:
    engine = await serving(made.folder / "saved-prompt", tmp_path)
    try:
        with pytest.raises(EngineRefusalError) as refusal:
            await ask(engine, Route.EMBEDDINGS, input="engine " * CONTEXT)
        assert json.loads(refusal.value.envelope())["error"]["code"] == "context_length_exceeded"
        with pytest.raises(BadInferenceRequestError, match="Send texts, not tokens"):
            await ask(engine, Route.EMBEDDINGS, input=[5, 6, 7])
    finally:
        await engine.stop()


async def test_texts_of_all_lengths_at_once(made: Made, tmp_path: Path) -> None:
    """A model that looks back only: its steps through a text are of what others are working on."""
    name = "saved-llama-mean-as-it-is"
    engine = await serving(made.folder / name, tmp_path)
    try:
        answers = await asyncio.gather(*(vectors(engine, [*made.texts] * 2) for _ in range(4)))
    finally:
        await engine.stop()
    for got in answers:
        assert cosines(got, np.tile(made.vectors[name], (2, 1))).min() >= 0.999
