"""Which models are converted, and why the others are not. Pure, and light: no numpy."""

from typing import Final

from modelshare.agent.convert.pretokenizers import adds_space_prefix, byte_level_name
from modelshare.agent.convert.source import Json, Source

GGUF_ARCHITECTURES: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "BertModel": "bert",
}
_ROPE_TYPES: Final = {"default", "linear", "llama3", "yarn"}
_KNOWN_MODULES: Final = {"Transformer", "Pooling", "Normalize"}
_POOLINGS: Final = ("pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_lasttoken")


def why_not(source: Source) -> str | None:
    """A sentence when the model cannot be converted; None when it can."""
    return _architecture(source) or _weights(source) or _network(source) or _pooling(source) or _tokenizer(source)


def _architecture(source: Source) -> str | None:
    if source.architecture in GGUF_ARCHITECTURES:
        return None
    named = source.architecture or "an architecture that config.json does not name"
    return f"{named} is not converted to GGUF; only {', '.join(GGUF_ARCHITECTURES)} are."


def _weights(source: Source) -> str | None:
    if quantization := source.config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        return f"its weights are quantized ({method}); only plain weights are converted to GGUF."
    return None


def _network(source: Source) -> str | None:
    config = source.config
    if source.architecture == "BertModel":
        if config.get("position_embedding_type", "absolute") != "absolute":
            return "its position embeddings are not absolute, which llama.cpp's BERT expects."
        return _activation(config, "gelu")
    rope = source.rope
    if rope["type"] not in _ROPE_TYPES:
        return f"its rotary embeddings are scaled by {rope['type']!r}, which is not converted to GGUF."
    if rope["type"] == "yarn" and any(rope.get(key) is not None for key in ("attention_factor", "mscale")):
        return "its YaRN scaling has an attention factor of its own, which is not converted to GGUF."
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        return "it rotates only a part of each head, which is not converted to GGUF."
    return _activation(config, "silu")


def _activation(config: Json, expected: str) -> str | None:
    given = config.get("hidden_act", expected)
    return None if given == expected else f"its activation is {given!r}, where llama.cpp computes {expected!r}."


def _pooling(source: Source) -> str | None:
    if unknown := sorted(set(source.modules) - _KNOWN_MODULES):
        return f"it ends in a {unknown[0]} layer, which is not converted to GGUF."
    if source.pooling and not any(source.pooling.get(mode) for mode in _POOLINGS):
        return "its pooling is neither mean, nor first token, nor last token."
    return None


def _tokenizer(source: Source) -> str | None:
    model = source.tokenizer.get("model")
    if model is None:
        return "it has no tokenizer.json; save it with a fast tokenizer."
    if source.architecture == "BertModel":
        return _word_piece(source.tokenizer)
    if model.get("type", "BPE") != "BPE":
        return f"its tokenizer is of type {model['type']}, which is not converted for this architecture."
    if byte_level_name(source.tokenizer) or adds_space_prefix(source.tokenizer) is not None:
        return None
    return "its tokenizer splits text in a way that llama.cpp is not known to share."


def _word_piece(tokenizer: Json) -> str | None:
    if tokenizer["model"].get("type") != "WordPiece":
        return "its tokenizer is not WordPiece, which llama.cpp's BERT expects."
    normalizer = tokenizer.get("normalizer") or {}
    if not normalizer.get("lowercase") or normalizer.get("strip_accents") is False:
        return "its tokenizer keeps capitals or accents, and llama.cpp's does not."
    return None
