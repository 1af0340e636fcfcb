"""Reads config.json, as Transformers writes it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelshare.server.registry.inspection.json_file import read_object
from modelshare.server.registry.inspection.plain import plain_text, positive_integer
from modelshare.server.registry.inspection.quantization import Scheme, scheme_of
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.refused import ModelRejectedError, printable

# In order of preference; GPT-2 says n_positions, ChatGLM seq_length, MPT max_seq_len, Whisper max_target_positions.
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "max_target_positions",
)
# Whole numbers without which no engine can lay out the tensors; lists (one number per layer) occur in some of them.
_SIZE_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"),
    *("num_key_value_heads", "head_dim"),
)
# The language part of models that also see or hear
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
# These count positions from pad_token_id + 1 = 2, so two of them hold no token (transformers, create_position_ids).
_POSITIONS_FROM_TWO = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})


@dataclass(frozen=True, slots=True)
class Config:
    architecture: str | None
    model_type: str | None
    context_length: int | None
    vocabulary_size: int | None
    dtype: str | None
    scheme: Scheme | None
    needs_own_code: bool  # auto_map: Transformers would import Python files of the repository
    warnings: tuple[str, ...] = ()


def read_config(name: str, reader: RangeReader) -> Config:
    """Reads config.json; a missing or invalid value is None. Raises ModelRejectedError for what no loader accepts."""
    config = read_object(name, reader)
    parts = list(_parts(config))
    _check_types(name, config, parts)
    architectures = config.get("architectures")
    model_type = plain_text(config.get("model_type"), 100)
    context_length = _first_integer(parts, _CONTEXT_KEYS)
    if context_length and model_type in _POSITIONS_FROM_TWO:
        context_length = max(1, context_length - 2)
    return Config(
        architecture=plain_text(architectures[0], 100) if isinstance(architectures, list) and architectures else None,
        model_type=model_type,
        context_length=context_length,
        vocabulary_size=_first_integer(parts, ("vocab_size",)),
        dtype=next((dtype for part in parts if (dtype := _dtype(part))), None),
        scheme=next((scheme for part in parts if (scheme := scheme_of(part))), None),
        needs_own_code=bool(config.get("auto_map")),
        warnings=tuple(_oddities(name, parts)),
    )


def declared_weights(name: str, reader: RangeReader) -> str:
    """The weights file, or index, that Transformers opens instead of the usual one; empty if there is none.

    Also empty if config.json cannot be read, which is reported with the facts of the described model.
    """
    try:
        return plain_text(read_object(name, reader).get("transformers_weights"), 1024) or ""
    except ModelRejectedError:
        return ""


def _check_types(name: str, config: Mapping[str, Any], parts: list[Mapping[str, Any]]) -> None:
    if not isinstance(config.get("model_type"), str | None):
        raise _invalid(name, "model_type", config["model_type"], "a text")
    for part in parts:
        for key in _SIZE_KEYS:
            if not _is_size(part.get(key)):
                raise _invalid(name, key, part[key], "a whole number")
        for key in _CONTEXT_KEYS:
            if not _is_context(key, part.get(key)):
                raise _invalid(name, key, part[key], "a whole number")


def _is_context(key: str, value: object) -> bool:
    """`max_position_embeddings` has one meaning; the other keys are also used for other things."""
    if key == _CONTEXT_KEYS[0] and isinstance(value, float | bool | list):
        return positive_integer(value) is not None
    return not isinstance(value, str | dict)


def _is_size(value: object) -> bool:
    if value is None or isinstance(value, list):
        return True
    return not isinstance(value, bool) and (value == 0 or positive_integer(value) is not None)


def _invalid(name: str, key: str, value: object, wanted: str) -> ModelRejectedError:
    return ModelRejectedError(
        f"{printable(name)} sets {key} to {printable(json.dumps(value))}, but loaders need {wanted}; correct it and "
        "push again."
    )


def _oddities(name: str, parts: list[Mapping[str, Any]]) -> Iterator[str]:
    """Warnings about values that only some loaders accept."""
    for part in parts:
        if part.get("quantization_config") and not isinstance(part["quantization_config"], dict):
            yield f"{name} has a quantization_config that is not an object; ignored here, and rejected by some engines."
        for key in (*_SIZE_KEYS, *_CONTEXT_KEYS):
            value = part.get(key)
            if isinstance(value, float | bool):
                taken = positive_integer(value)
                meaning = f"read here as {taken}" if taken else "not a whole number, so it is ignored here"
                yield f"{name} sets {key} to {json.dumps(value)}, {meaning}; some engines reject that."


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and its language part, which may lie two levels deep (thinker_config.text_config)."""
    yield config
    for key in _TEXT_PARTS:
        part = config.get(key)
        if isinstance(part, dict):
            yield part
            inner = part.get("text_config")
            if isinstance(inner, dict):
                yield inner


def _first_integer(parts: list[Mapping[str, Any]], keys: tuple[str, ...]) -> int | None:
    values = (positive_integer(part.get(key)) for part in parts for key in keys)
    return next((value for value in values if value), None)


def _dtype(part: Mapping[str, Any]) -> str | None:
    return plain_text(part.get("dtype") or part.get("torch_dtype"), 40)
