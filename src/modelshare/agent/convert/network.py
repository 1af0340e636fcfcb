"""Writes a network's hyperparameters and tensors in llama.cpp's format."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import gguf
import numpy as np

from modelshare.agent.convert.headers import Tensor
from modelshare.agent.convert.numbers import Numbers
from modelshare.agent.convert.source import TensorSource
from modelshare.agent.convert.tensors import placed
from modelshare.agent.convert.values import number, whole
from modelshare.agent.convert.weights import Array, load

_POOLINGS: Final = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "lasttoken": gguf.PoolingType.LAST}


@dataclass(frozen=True, slots=True)
class OutTensor:
    """A tensor to be written; `load` reads and rearranges it."""

    name: str
    shape: tuple[int, ...]
    exact: bool
    """Stored as float32, whatever type is used for the others."""
    load: Callable[[], Array]


def write_network(writer: gguf.GGUFWriter, source: TensorSource, numbers: Numbers) -> None:
    """Writes the hyperparameters."""
    writer.add_block_count(numbers.layers)
    writer.add_embedding_length(numbers.width)
    writer.add_feed_forward_length(numbers.inner)
    writer.add_head_count(numbers.heads)
    writer.add_vocab_size(numbers.vocabulary)
    writer.add_context_length(numbers.context)
    if source.is_bert:
        writer.add_layer_norm_eps(numbers.epsilon)
        writer.add_causal_attention(False)
    else:
        writer.add_head_count_kv(numbers.kv_heads)
        writer.add_layer_norm_rms_eps(numbers.epsilon)
        writer.add_key_length(numbers.head_width)
        writer.add_value_length(numbers.head_width)
        _write_rope(writer, source, numbers)
    if source.embedder or source.is_bert:
        writer.add_pooling_type(_POOLINGS[source.embedder.pooling if source.embedder else "mean"])


def out_tensors(source: TensorSource, numbers: Numbers, tensors: Sequence[Tensor]) -> Iterator[OutTensor]:
    """All tensors under their GGUF names. Raises ConversionError as `placed` does."""
    if not source.is_bert and source.rope["type"] == "llama3":
        factors = _llama3_factors(source, numbers)
        yield OutTensor("rope_freqs.weight", factors.shape, exact=True, load=lambda: factors)
    for name, tensor, place in placed(source, numbers, tensors):
        exact = len(tensor.shape) < 2 or "position" in name or "token_type" in name  # noqa: PLR2004
        yield OutTensor(place.name, place.shape, exact, _loader(source, numbers, name, tensor))


def _loader(source: TensorSource, numbers: Numbers, name: str, tensor: Tensor) -> Callable[[], Array]:
    if source.gguf_architecture == "llama":
        if ".q_proj." in name:
            return lambda: _for_interleaved_rope(load(tensor), numbers.heads)
        if ".k_proj." in name:
            return lambda: _for_interleaved_rope(load(tensor), numbers.kv_heads)
    return lambda: load(tensor)


def _for_interleaved_rope(tensor: Array, heads: int) -> Array:
    """Hugging Face's Llama rotates channel i with i + n/2, GGUF's rotates neighbours: reorder each head's rows."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def _write_rope(writer: gguf.GGUFWriter, source: TensorSource, numbers: Numbers) -> None:
    rope = source.rope
    writer.add_rope_dimension_count(numbers.head_width)
    writer.add_rope_freq_base(rope["base"])
    if rope["type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(number(rope, "factor"))
    elif rope["type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(number(rope, "factor"))
        writer.add_rope_scaling_orig_ctx_len(whole(rope, "original_max_position_embeddings", numbers.positions))
        writer.add_rope_scaling_yarn_beta_fast(number(rope, "beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(number(rope, "beta_slow", 1.0))


def _llama3_factors(source: TensorSource, numbers: Numbers) -> Array:
    """Divisors of the rotary frequencies for Llama 3.1's scaling.

    https://github.com/huggingface/transformers/blob/main/src/transformers/modeling_rope_utils.py
    """
    rope, width = source.rope, numbers.head_width
    factor, low, high = (number(rope, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    wavelengths = 2 * math.pi * rope["base"] ** (np.arange(0, width, 2) / width)
    turns = whole(rope, "original_max_position_embeddings") / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Array = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors
