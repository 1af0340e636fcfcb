"""Engines that read sentence-transformers' files themselves: which models they are kept from."""

from dataclasses import replace
from pathlib import Path

import pytest

from modelshare.agent.engines.base import Format, Task
from modelshare.agent.engines.plugin import Machine, ModelFacts
from modelshare.agent.engines.select import find_engines
from modelshare.embedder import Embedder, Layer

NEW = (
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "sentence_transformers.base.modules.normalize.Normalize",
)
PLAIN = Embedder(
    transformer="",
    pooling="lasttoken",
    layers=(Layer("Normalize"),),
    dimensions=None,
    lowercases=False,
    prompt="",
    most_tokens=None,
    cuts_beginning=False,
    types=NEW,
    optional_prompts=(),
    obstacle=None,
)
ENGINES = {name: engine for name, engine in find_engines(Machine(Path("state"))).items() if engine.needs_gpu}
DENSE = Layer("Dense", "2_Dense/model.safetensors", 4, 4)


def unsuited(embedder: Embedder | None, *, has_tokenizer: bool) -> dict[str, str]:
    model = ModelFacts(Format.SAFETENSORS, Task.EMBEDDING, embedder=embedder, has_tokenizer=has_tokenizer)
    return {name: reason for name, engine in ENGINES.items() if (reason := engine.unsuited(model))}


@pytest.mark.parametrize(
    ("embedder", "kept_from"),
    [
        (None, set()),
        (PLAIN, set()),
        (replace(PLAIN, pooling="mean"), {"sglang"}),
        (replace(PLAIN, layers=()), {"sglang"}),
        (replace(PLAIN, layers=(DENSE, Layer("Normalize"))), {"sglang"}),
        (replace(PLAIN, layers=(Layer("Normalize"), DENSE)), {"vllm", "sglang"}),
        (replace(PLAIN, dimensions=3), {"vllm", "sglang"}),
        (replace(PLAIN, transformer="0_Transformer"), {"vllm", "sglang"}),
        (replace(PLAIN, types=()), {"vllm"}),
        (replace(PLAIN, types=(*NEW[:2], "sentence_transformers.models.LayerNorm")), {"vllm"}),
        (replace(PLAIN, obstacle="it joins several poolings."), {"vllm", "sglang"}),
    ],
)
def test_each_is_kept_from_what_it_would_get_wrong(embedder: Embedder | None, kept_from: set[str]) -> None:
    reasons = unsuited(embedder, has_tokenizer=True)
    assert reasons.keys() == kept_from
    assert all(reason.endswith(".") for reason in reasons.values())


def test_prompts_need_a_tokenizer_of_the_agents_own() -> None:
    assert unsuited(replace(PLAIN, prompt="query: "), has_tokenizer=False).keys() == {
        "vllm",
        "sglang",
    }
    assert not unsuited(PLAIN, has_tokenizer=False)
