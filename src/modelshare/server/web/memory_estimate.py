"""Estimates how much memory a model needs, and whether an agent has it. Pure.

The catalog has no numbers of layers and heads, so these are derived from the parameters, for usual architectures:

* Decoders have about 12 · layers · width² parameters (Kaplan et al., "Scaling Laws for Neural Language Models", 2020,
  section 2.1), and a width of about 128 · layers: Llama 3 8B has 32 layers and a width of 4,096, 405B 126 and 16,384.
* Per token and layer, keys and values take 2 · (key-value width) numbers of 16 bits (Pope et al., "Efficiently Scaling
  Transformer Inference", 2022). With grouped queries (Ainslie et al., "GQA", 2023) that width is a quarter of the
  model's, and at most 1,024: 8 heads of 128, as Llama 3, Mistral and Qwen have them.
* What engines need beside both is 20 % of the weights at most (Anthony et al., "Transformer Math 101", 2023).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

USUAL_CONTEXT: Final = 8192
"""The default context of an agent, in tokens."""
_WIDTH_BY_LAYERS: Final = 128
_PARAMETERS_BY_CUBED_LAYERS: Final = 12 * _WIDTH_BY_LAYERS**2
_QUERIES_BY_KEY: Final = 4
_MAX_KEY_WIDTH: Final = 1024
_BYTES: Final = 2
_HEADROOM_PERCENT: Final = 120
_READERS: Final = {
    "gguf": frozenset({"llamacpp", "external"}),
    "safetensors": frozenset({"llamacpp", "transformers", "vllm", "sglang", "external"}),
    "pickle": frozenset({"transformers", "vllm", "sglang", "external"}),
}
"""Engines that may serve a format; llama.cpp does so by conversion, if possible."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes."""

    weights: int
    cache: int | None
    """For the keys and values of `context` tokens; None if unknown."""
    context: int
    """Tokens."""

    @property
    def total(self) -> int:
        return self.weights + (self.cache or 0)

    @property
    def comfortable(self) -> int:
        """Including what engines need besides."""
        return self.total + self.weights * (_HEADROOM_PERCENT - 100) // 100


class Fit(StrEnum):
    FITS = "fits"
    TIGHT = "tight"
    TOO_BIG = "too large"
    NO_ENGINE = "no engine available"
    UNKNOWN = "memory unknown"


def need(
    *,
    weight_bytes: int,
    parameters: int | None,
    context_length: int | None,
    task: str | None,
    context: int | None = None,
) -> MemoryNeed:
    """For a request of `context` tokens; default: the model's context, up to `USUAL_CONTEXT`."""
    tokens = context or min(context_length or USUAL_CONTEXT, USUAL_CONTEXT)
    if task == "embedding":
        return MemoryNeed(weight_bytes, 0, tokens)
    return MemoryNeed(weight_bytes, cache_bytes(parameters, tokens) if parameters else None, tokens)


def cache_bytes(parameters: int, tokens: int) -> int:
    """For a decoder of a usual architecture."""
    layers: float = (parameters / _PARAMETERS_BY_CUBED_LAYERS) ** (1 / 3)
    key_width = min(layers * _WIDTH_BY_LAYERS / _QUERIES_BY_KEY, _MAX_KEY_WIDTH)
    return round(2 * layers * key_width * _BYTES) * tokens


def weight_bytes(manifest: Mapping[str, Any], otherwise: int) -> int:
    """Bytes of the files that an engine loads, according to the manifest."""
    facts = manifest.get("facts")
    loaded = frozenset(facts.get("weights") or ()) if isinstance(facts, Mapping) else frozenset()
    size: int = sum(file["size"] for file in manifest.get("files", ()) if file["path"] in loaded)
    return size or otherwise


def fit(needed: MemoryNeed, memory_bytes: int | None, engines: Collection[str], format_: str | None) -> Fit:
    """Whether the model fits on an agent with this memory and these engines."""
    readers = _READERS.get(format_ or "")
    if readers is not None and not readers.intersection(engines):
        return Fit.NO_ENGINE
    if memory_bytes is None:
        return Fit.UNKNOWN
    if needed.total > memory_bytes:
        return Fit.TOO_BIG
    return Fit.TIGHT if needed.comfortable > memory_bytes else Fit.FITS
