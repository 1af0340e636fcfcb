"""Engines that read sentence-transformers' files themselves: which models they are kept from."""

from dataclasses import replace

import pytest

from modelshare.agent.engines.base import EngineKind
from modelshare.agent.engines.embedders import unsuited
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
DENSE = Layer("Dense", "2_Dense/model.safetensors", 4, 4)


@pytest.mark.parametrize(
    ("embedder", "kept_from"),
    [
        (None, set()),
        (PLAIN, set()),
        (replace(PLAIN, pooling="mean"), {EngineKind.SGLANG}),
        (replace(PLAIN, layers=()), {EngineKind.SGLANG}),
        (replace(PLAIN, layers=(DENSE, Layer("Normalize"))), {EngineKind.SGLANG}),
        (replace(PLAIN, layers=(Layer("Normalize"), DENSE)), {EngineKind.VLLM, EngineKind.SGLANG}),
        (replace(PLAIN, dimensions=3), {EngineKind.VLLM, EngineKind.SGLANG}),
        (replace(PLAIN, transformer="0_Transformer"), {EngineKind.VLLM, EngineKind.SGLANG}),
        (replace(PLAIN, types=()), {EngineKind.VLLM}),
        (replace(PLAIN, types=(*NEW[:2], "sentence_transformers.models.LayerNorm")), {EngineKind.VLLM}),
        (replace(PLAIN, obstacle="it joins several poolings."), {EngineKind.VLLM, EngineKind.SGLANG}),
    ],
)
def test_each_is_kept_from_what_it_would_get_wrong(embedder: Embedder | None, kept_from: set[EngineKind]) -> None:
    reasons = unsuited(embedder, has_tokenizer=True)
    assert reasons.keys() == kept_from
    assert all(reason.endswith(".") for reason in reasons.values())


def test_prompts_need_a_tokenizer_of_the_agents_own() -> None:
    assert unsuited(replace(PLAIN, prompt="query: "), has_tokenizer=False).keys() == {
        EngineKind.VLLM,
        EngineKind.SGLANG,
    }
    assert not unsuited(PLAIN, has_tokenizer=False)
