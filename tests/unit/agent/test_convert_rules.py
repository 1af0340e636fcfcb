from pathlib import Path
from typing import Any

import pytest

from modelshare.agent.convert.pretokenizers import adds_space_prefix, byte_level_name
from modelshare.agent.convert.rules import why_not
from modelshare.agent.convert.source import GGUF_ARCHITECTURES, TensorSource
from modelshare.embedder import ARCHITECTURES, Embedder

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
AFTER_SPLIT = BYTE_LEVEL | {"use_regex": False}


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def bpe(*steps: dict[str, Any], normalizer: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    pre_tokenizer = {"type": "Sequence", "pretokenizers": list(steps)} if steps else None
    return {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "model": {"type": "BPE", **model}}


def source(tokenizer: dict[str, Any] | None = None, embedder: Embedder | None = None, **config: Any) -> TensorSource:
    config = {"architectures": ["LlamaForCausalLM"], **config}
    return TensorSource(Path(), config, bpe(BYTE_LEVEL) if tokenizer is None else tokenizer, {}, {}, embedder)


def embedder(obstacle: str | None = None) -> Embedder:
    return Embedder(
        transformer="",
        layers=(),
        dimensions=None,
        pooling="mean",
        lowercases=False,
        prompt="",
        most_tokens=None,
        cuts_beginning=False,
        types=(),
        optional_prompts=(),
        obstacle=obstacle,
    )


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        ({"pre_tokenizer": BYTE_LEVEL, "model": {}}, "gpt-2"),
        (bpe({"type": "Digits", "individual_digits": True}, BYTE_LEVEL), "smollm"),
        (bpe(split(LLAMA3), AFTER_SPLIT, ignore_merges=True), "llama-bpe"),
        (bpe(split(LLAMA3), AFTER_SPLIT), "smaug-bpe"),
        (bpe(split(LLAMA3.replace("{1,3}", "")), AFTER_SPLIT, ignore_merges=False), "qwen2"),
        (bpe(split(LLAMA3 + "x"), AFTER_SPLIT), None),
        (bpe(split(LLAMA3), BYTE_LEVEL), None),
        (bpe(BYTE_LEVEL | {"add_prefix_space": True}), None),
        (bpe({"type": "Whitespace"}), None),
        (bpe(), None),
    ],
)
def test_byte_level_tokenizers_are_known_by_their_expressions(tokenizer: dict[str, Any], name: str | None) -> None:
    assert byte_level_name(tokenizer) == name


PREPEND = {"type": "Prepend", "prepend": "▁"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(
    ("tokenizer", "adds"),
    [
        (bpe(normalizer={"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, byte_fallback=True), True),
        (bpe(normalizer=REPLACE, byte_fallback=True), False),
        (bpe(METASPACE, byte_fallback=True), True),
        (bpe(METASPACE | {"prepend_scheme": "never"}, byte_fallback=True), False),
        (bpe(METASPACE), None),
        (bpe(byte_fallback=True), None),
        (bpe({"type": "Whitespace"}, byte_fallback=True), None),
    ],
)
def test_sentencepiece_tokenizers_say_whether_they_put_a_space_first(tokenizer: Any, adds: bool | None) -> None:
    assert adds_space_prefix(tokenizer) is adds


WORD_PIECE = {"model": {"type": "WordPiece"}, "normalizer": {"lowercase": True, "strip_accents": None}}
BERT: dict[str, Any] = {"architectures": ["BertModel"], "hidden_act": "gelu"}


@pytest.mark.parametrize(
    "model",
    [
        source(),
        source(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        source(rope_parameters={"rope_type": "default", "rope_theta": 1e6}, hidden_act="silu"),
        source(WORD_PIECE, embedder(), **BERT),
        source(architectures=["Qwen3Model"]),
    ],
)
def test_what_is_converted(model: TensorSource) -> None:
    assert why_not(model) is None


def test_a_push_names_the_architectures_that_are_converted() -> None:
    assert set(ARCHITECTURES) == GGUF_ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (source(architectures=["FalconForCausalLM"]), "FalconForCausalLM cannot be converted to GGUF"),
        (source(architectures=None), "an architecture that config.json does not name"),
        (source(quantization_config={"quant_method": "gptq"}), "quantized (gptq)"),
        (source(rope_scaling={"type": "longrope"}), "scaled by 'longrope'"),
        (source(rope_scaling={"type": "yarn", "attention_factor": 0.5}), "attention factor"),
        (source(partial_rotary_factor=0.5), "only a part of each head"),
        (source(hidden_act="gelu"), "its activation is 'gelu', but llama.cpp uses 'silu'"),
        (source({}), "no tokenizer.json"),
        (source({"model": {"type": "Unigram"}}), "of type Unigram"),
        (source(bpe()), "splits text in a way"),
        (source(WORD_PIECE, embedder("it has a Dense layer."), **BERT), "it has a Dense layer."),
        (source(architectures="LlamaForCausalLM"), "an architecture that config.json does not name"),
        (source(rope_scaling={"rope_type": ["llama3"]}), "scaled by '[\"llama3\"]'"),
        (source(is_causal=False), "it uses bidirectional attention"),
        (source(architectures=["Qwen3Model"], attention_bias=True), "its attention has biases"),
        (source(bpe(BYTE_LEVEL), **BERT), "not WordPiece"),
        (source({**WORD_PIECE, "normalizer": {"lowercase": False}}, **BERT), "keeps case"),
        (source(WORD_PIECE, **BERT, position_embedding_type="relative_key"), "not absolute"),
    ],
)
def test_what_is_not_says_why(model: TensorSource, reason: str) -> None:
    assert reason in (why_not(model) or "")
