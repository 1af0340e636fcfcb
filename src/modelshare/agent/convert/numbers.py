"""Reads a network's hyperparameters from config.json."""

from dataclasses import dataclass
from typing import Final

from modelshare.agent.convert.source import TensorSource
from modelshare.agent.convert.values import ConversionError, Json, number, truth, whole

_PAIR: Final = 2
"""Rotary embeddings rotate pairs of channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    """Tokens that are computed exactly."""
    positions: int
    """Number of position embeddings."""
    token_types: int
    epsilon: float


def read_numbers(source: TensorSource) -> Numbers:
    """Raises ConversionError."""
    config = source.config
    heads, width = whole(config, "num_attention_heads"), whole(config, "hidden_size")
    positions = whole(config, "max_position_embeddings")
    kv_heads = heads if source.is_bert else whole(config, "num_key_value_heads", heads)
    head_width = width // heads if source.is_bert else whole(config, "head_dim", width // heads or 1)
    if width % heads and (source.is_bert or config.get("head_dim") is None):
        raise ConversionError(f"its hidden_size {width} is not a multiple of its {heads} heads.")
    if heads % kv_heads:
        raise ConversionError(f"its {heads} heads are not a multiple of its {kv_heads} key-value heads.")
    if head_width % _PAIR and not source.is_bert:
        raise ConversionError(f"its head_dim {head_width} is odd, but rotary embeddings need pairs.")
    return Numbers(
        layers=whole(config, "num_hidden_layers"),
        width=width,
        inner=whole(config, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        vocabulary=whole(config, "vocab_size"),
        context=positions if source.is_bert else _exact_context(config, positions),
        positions=positions,
        token_types=whole(config, "type_vocab_size", 2) if source.is_bert else 0,
        epsilon=number(config, "layer_norm_eps", 1e-12) if source.is_bert else number(config, "rms_norm_eps"),
    )


def _exact_context(config: Json, positions: int) -> int:
    """The context in which llama.cpp, which ignores sliding windows for these architectures, is exact."""
    window = whole(config, "sliding_window", positions, least=0) or positions
    slides = config.get("use_sliding_window") is None or truth(config, "use_sliding_window")
    return min(positions, window) if slides else positions
