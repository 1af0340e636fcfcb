"""The tensors that a model must have, with their shapes and GGUF names. Pure; does not import numpy.

Names: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelshare.agent.convert.headers import TYPES, Tensor
from modelshare.agent.convert.numbers import Numbers
from modelshare.agent.convert.source import TensorSource
from modelshare.agent.convert.values import ConversionError, printable, truth

_PREFIXES: Final = ("model.", "bert.")
_NOT_WEIGHTS: Final = ("rotary_emb.inv_freq", "position_ids")
_HEAD: Final = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Place:
    name: str
    """The name in GGUF."""
    shape: tuple[int, ...]


def placed(source: TensorSource, numbers: Numbers, tensors: Sequence[Tensor]) -> list[tuple[str, Tensor, Place]]:
    """Each tensor to convert, with its Hugging Face name without the model's prefix.

    Raises ConversionError for a tensor that is missing, unknown, or of an unexpected type or shape.
    """
    if len(tensors) < numbers.layers:  # checked first, since the names below are generated for every claimed layer
        raise ConversionError(f"its config.json states {numbers.layers} layers, but there are {len(tensors)} tensors.")
    places = dict(_bert(numbers) if source.is_bert else _llama(source, numbers))
    found: dict[str, tuple[Tensor, Place]] = {}
    for tensor in tensors:
        name = _bare(tensor.name)
        if _is_left_out(source, name):
            continue
        place = places.get(name)
        if place is None:
            raise ConversionError(f"The tensor {printable(tensor.name)} has no counterpart in GGUF.")
        if name in found:
            raise ConversionError(f"The tensor {printable(tensor.name)} appears twice.")
        _check(tensor, place)
        found[name] = (tensor, place)
    if missing := next((name for name in places if name not in found), None):
        raise ConversionError(f"The tensor {missing} is missing.")
    return [(name, *both) for name, both in found.items()]


def _check(tensor: Tensor, place: Place) -> None:
    if tensor.dtype not in TYPES:
        raise ConversionError(
            f"its tensor {printable(tensor.name)} is stored as {printable(tensor.dtype)}; "
            f"only {', '.join(TYPES)} are converted."
        )
    if tensor.shape != place.shape:
        raise ConversionError(
            f"its tensor {printable(tensor.name)} has the shape {printable(tensor.shape)}, but its config.json says "
            f"{printable(place.shape)}."
        )


def _bare(name: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _is_left_out(source: TensorSource, name: str) -> bool:
    """Whether the tensor is not a weight, or is not used for the model's task."""
    return (
        name.endswith(_NOT_WEIGHTS)
        or (source.is_bert and name.startswith("pooler."))
        or (name == _HEAD and not _has_head(source))
    )


def _has_head(source: TensorSource) -> bool:
    return not (source.is_bert or source.is_headless or source.embedder or truth(source.config, "tie_word_embeddings"))


def _llama(source: TensorSource, numbers: Numbers) -> Iterator[tuple[str, Place]]:
    width, inner = numbers.width, numbers.inner
    all_heads, kv_heads = numbers.heads * numbers.head_width, numbers.kv_heads * numbers.head_width
    yield "embed_tokens.weight", Place("token_embd.weight", (numbers.vocabulary, width))
    yield "norm.weight", Place("output_norm.weight", (width,))
    if _has_head(source):
        yield _HEAD, Place("output.weight", (numbers.vocabulary, width))
    attention = {
        "q_proj": ("attn_q", all_heads, width),
        "k_proj": ("attn_k", kv_heads, width),
        "v_proj": ("attn_v", kv_heads, width),
        "o_proj": ("attn_output", width, all_heads),
    }
    feed_forward = {
        "gate_proj": ("ffn_gate", inner, width),
        "up_proj": ("ffn_up", inner, width),
        "down_proj": ("ffn_down", width, inner),
    }
    biased = _biased(source)
    for n in range(numbers.layers):
        layer = f"layers.{n}"
        yield f"{layer}.input_layernorm.weight", Place(f"blk.{n}.attn_norm.weight", (width,))
        yield f"{layer}.post_attention_layernorm.weight", Place(f"blk.{n}.ffn_norm.weight", (width,))
        for group, members in (("self_attn", attention), ("mlp", feed_forward)):
            for member, (name, rows, columns) in members.items():
                yield f"{layer}.{group}.{member}.weight", Place(f"blk.{n}.{name}.weight", (rows, columns))
                if member in biased:
                    yield f"{layer}.{group}.{member}.bias", Place(f"blk.{n}.{name}.bias", (rows,))
        if source.gguf_architecture == "qwen3":
            for member in ("q", "k"):
                name = f"blk.{n}.attn_{member}_norm.weight"
                yield f"{layer}.self_attn.{member}_norm.weight", Place(name, (numbers.head_width,))


def _biased(source: TensorSource) -> set[str]:
    if source.gguf_architecture == "qwen2":
        return {"q_proj", "k_proj", "v_proj"}
    if not source.architecture.startswith("Llama"):
        return set()
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"} if truth(source.config, "attention_bias") else set()
    return attention | ({"gate_proj", "up_proj", "down_proj"} if truth(source.config, "mlp_bias") else set())


def _bert(numbers: Numbers) -> Iterator[tuple[str, Place]]:
    width, inner = numbers.width, numbers.inner
    yield "embeddings.word_embeddings.weight", Place("token_embd.weight", (numbers.vocabulary, width))
    yield "embeddings.position_embeddings.weight", Place("position_embd.weight", (numbers.positions, width))
    yield "embeddings.token_type_embeddings.weight", Place("token_types.weight", (numbers.token_types, width))
    yield from _pair("embeddings.LayerNorm", "token_embd_norm", (width,))
    layer: Mapping[str, tuple[str, tuple[int, ...]]] = {
        "attention.self.query": ("attn_q", (width, width)),
        "attention.self.key": ("attn_k", (width, width)),
        "attention.self.value": ("attn_v", (width, width)),
        "attention.output.dense": ("attn_output", (width, width)),
        "attention.output.LayerNorm": ("attn_output_norm", (width,)),
        "intermediate.dense": ("ffn_up", (inner, width)),
        "output.dense": ("ffn_down", (width, inner)),
        "output.LayerNorm": ("layer_output_norm", (width,)),
    }
    for n in range(numbers.layers):
        for member, (name, shape) in layer.items():
            yield from _pair(f"encoder.layer.{n}.{member}", f"blk.{n}.{name}", shape)


def _pair(member: str, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Place]]:
    yield f"{member}.weight", Place(f"{name}.weight", shape)
    yield f"{member}.bias", Place(f"{name}.bias", shape[:1])
