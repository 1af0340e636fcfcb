"""Which models can be converted, and why others cannot. Pure; does not import numpy."""

from typing import Final

from modelshare.agent.convert.pretokenizers import adds_space_prefix, byte_level_name
from modelshare.agent.convert.source import GGUF_ARCHITECTURES, TensorSource
from modelshare.agent.convert.values import Json, mapping, printable, truth

_ROPE_TYPES: Final = {"default", "linear", "llama3", "yarn"}


def why_not(source: TensorSource) -> str | None:
    """A sentence if the model cannot be converted; None if it can."""
    embedder = source.embedder
    obstacle = embedder.obstacle if embedder else None
    return obstacle or _architecture(source) or _weights(source) or _network(source) or _tokenizer(source)


def _architecture(source: TensorSource) -> str | None:
    if source.architecture in GGUF_ARCHITECTURES:
        return None
    named = printable(source.architecture) or "an architecture that config.json does not name"
    return f"{named} cannot be converted to GGUF; only {', '.join(GGUF_ARCHITECTURES)} can."


def _weights(source: TensorSource) -> str | None:
    if quantization := mapping(source.config, "quantization_config"):
        method = printable(quantization.get("quant_method", "unknown"))
        return f"its weights are quantized ({method}); only unquantized weights can be converted to GGUF."
    return None


def _network(source: TensorSource) -> str | None:
    config = source.config
    if source.is_bert:
        if config.get("position_embedding_type", "absolute") != "absolute":
            return "its position embeddings are not absolute, which llama.cpp's BERT expects."
        return _activation(config, "gelu")
    return _attention(source) or _rope(source) or _activation(config, "silu")


def _attention(source: TensorSource) -> str | None:
    config = source.config
    if config.get("is_causal") is not None and not truth(config, "is_causal"):
        return "it uses bidirectional attention, which llama.cpp does not support for this architecture."
    if source.gguf_architecture == "qwen3" and truth(config, "attention_bias"):
        return "its attention has biases, which llama.cpp does not support for this architecture."
    return None


def _rope(source: TensorSource) -> str | None:
    rope = source.rope
    if not isinstance(rope["type"], str) or rope["type"] not in _ROPE_TYPES:
        return f"its rotary embeddings are scaled by '{printable(rope['type'])}', which is not converted to GGUF."
    if rope["type"] == "yarn" and any(rope.get(key) is not None for key in ("attention_factor", "mscale")):
        return "its YaRN scaling has its own attention factor, which is not converted to GGUF."
    if source.config.get("partial_rotary_factor", 1.0) not in (None, 1.0):
        return "it rotates only a part of each head, which is not converted to GGUF."
    return None


def _activation(config: Json, expected: str) -> str | None:
    given = config.get("hidden_act", expected)
    return None if given == expected else f"its activation is '{printable(given)}', but llama.cpp uses '{expected}'."


def _tokenizer(source: TensorSource) -> str | None:
    model = mapping(source.tokenizer, "model")
    if not model:
        return "it has no tokenizer.json; save it with a fast tokenizer."
    if source.is_bert:
        return _word_piece(source)
    if model.get("type", "BPE") != "BPE":
        return f"its tokenizer is of type {printable(model['type'])}, which is not converted for this architecture."
    if byte_level_name(source.tokenizer) or adds_space_prefix(source.tokenizer) is not None:
        return None
    return "its tokenizer splits text in a way that llama.cpp may not support."


def _word_piece(source: TensorSource) -> str | None:
    if mapping(source.tokenizer, "model").get("type") != "WordPiece":
        return "its tokenizer is not WordPiece, which llama.cpp's BERT expects."
    normalizer = mapping(source.tokenizer, "normalizer")
    if source.embedder is not None:  # the agent tokenizes its texts
        return None
    if not normalizer.get("lowercase") or normalizer.get("strip_accents") is False:
        return "its tokenizer keeps case or accents, but llama.cpp's does not."
    return None
