"""A network's numbers and tensors, as llama.cpp wants them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import gguf
import numpy as np

from modelshare.agent.convert.rules import GGUF_ARCHITECTURES
from modelshare.agent.convert.source import ConversionError, Json, Source
from modelshare.agent.convert.weights import Array, Tensor

_NOT_WEIGHTS: Final = ("rotary_emb.inv_freq", "position_ids")


@dataclass(frozen=True, slots=True)
class OutTensor:
    """A tensor to be written; `load` reads and rearranges it."""

    name: str
    shape: tuple[int, ...]
    exact: bool
    """Kept as float32, whatever the rest becomes."""
    load: Callable[[], Array]


def write_network(writer: gguf.GGUFWriter, source: Source) -> None:
    """The hyperparameters."""
    config = source.config
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    if source.architecture == "BertModel":
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-12))
        writer.add_causal_attention(False)
    else:
        writer.add_context_length(_exact_context(config))
        writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_key_length(_head_width(config))
        writer.add_value_length(_head_width(config))
        _write_rope(writer, source)
    if source.pooling or source.architecture == "BertModel":
        writer.add_pooling_type(_pooling_type(source.pooling))


def out_tensors(source: Source, tensors: list[Tensor]) -> Iterator[OutTensor]:
    """All tensors under GGUF's names. Raises ConversionError for one that has none."""
    names = gguf.get_tensor_name_map(_architecture(source), source.config["num_hidden_layers"])
    tied = bool(source.config.get("tie_word_embeddings"))
    if source.rope["type"] == "llama3":
        factors = _llama3_factors(source)
        yield OutTensor("rope_freqs.weight", factors.shape, exact=True, load=lambda: factors)
    for tensor in tensors:
        hf_name = tensor.name.removeprefix("bert.")
        if hf_name.endswith(_NOT_WEIGHTS) or hf_name.startswith("pooler.") or (tied and hf_name == "lm_head.weight"):
            continue
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConversionError(f"The tensor {tensor.name} has no counterpart in GGUF.")
        tensor.check()
        exact = len(tensor.shape) < 2 or "position" in hf_name or "token_type" in hf_name  # noqa: PLR2004
        yield OutTensor(name, tensor.shape, exact, _loader(source, hf_name, tensor))


def _architecture(source: Source) -> gguf.MODEL_ARCH:
    wanted = GGUF_ARCHITECTURES[source.architecture]
    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == wanted)


def _loader(source: Source, hf_name: str, tensor: Tensor) -> Callable[[], Array]:
    config = source.config
    if GGUF_ARCHITECTURES[source.architecture] == "llama":
        if ".q_proj." in hf_name:
            return lambda: _for_interleaved_rope(tensor.load(), config["num_attention_heads"])
        if ".k_proj." in hf_name:
            heads = config.get("num_key_value_heads") or config["num_attention_heads"]
            return lambda: _for_interleaved_rope(tensor.load(), heads)
    return tensor.load


def _for_interleaved_rope(tensor: Array, heads: int) -> Array:
    """Hugging Face's Llama rotates channel i with i + n/2, GGUF's rotates neighbours: reorder each head's rows."""
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))


def _head_width(config: Json) -> int:
    width: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return width


def _exact_context(config: Json) -> int:
    """llama.cpp attends to everything in these architectures: up to the sliding window that is the same."""
    length: int = config["max_position_embeddings"]
    window = config.get("sliding_window")
    return min(length, window) if window and config.get("use_sliding_window", True) else length


def _write_rope(writer: gguf.GGUFWriter, source: Source) -> None:
    rope = source.rope
    writer.add_rope_dimension_count(_head_width(source.config))
    writer.add_rope_freq_base(rope["base"])
    if rope["type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        original = rope.get("original_max_position_embeddings") or source.config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)


def _llama3_factors(source: Source) -> Array:
    """Divisors of the rotary frequencies: Llama 3.1's scaling.

    https://github.com/huggingface/transformers/blob/main/src/transformers/modeling_rope_utils.py
    """
    rope, width = source.rope, _head_width(source.config)
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    wavelengths = 2 * math.pi * rope["base"] ** (np.arange(0, width, 2) / width)
    turns = rope["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors: Array = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors


def _pooling_type(pooling: Json) -> gguf.PoolingType:
    if pooling.get("pooling_mode_cls_token"):
        return gguf.PoolingType.CLS
    if pooling.get("pooling_mode_lasttoken"):
        return gguf.PoolingType.LAST
    return gguf.PoolingType.MEAN
