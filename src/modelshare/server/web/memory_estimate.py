"""How much memory a model needs to answer, and whether a machine has it. Pure; every figure is an estimate.

Facts of a catalog name no layers or heads, so these are derived from the parameters as usual shapes have it:

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
"""Tokens that an agent gives a request unless told otherwise."""
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
"""Engines that may serve a format; llama.cpp does so by converting where it can."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes."""

    weights: int
    cache: int | None
    """For the keys and values of `context` tokens; None where nothing tells how large it is."""
    context: int
    """Tokens."""

    @property
    def total(self) -> int:
        return self.weights + (self.cache or 0)

    @property
    def comfortable(self) -> int:
        """With room for what engines need beside."""
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
    """For one request of `context` tokens: as many as the model takes, and `USUAL_CONTEXT` at most, if not given."""
    tokens = context or min(context_length or USUAL_CONTEXT, USUAL_CONTEXT)
    if task == "embedding":
        return MemoryNeed(weight_bytes, 0, tokens)
    return MemoryNeed(weight_bytes, cache_bytes(parameters, tokens) if parameters else None, tokens)


def cache_bytes(parameters: int, tokens: int) -> int:
    """Of a decoder of usual shape."""
    layers: float = (parameters / _PARAMETERS_BY_CUBED_LAYERS) ** (1 / 3)
    key_width = min(layers * _WIDTH_BY_LAYERS / _QUERIES_BY_KEY, _MAX_KEY_WIDTH)
    return round(2 * layers * key_width * _BYTES) * tokens


def weight_bytes(manifest: Mapping[str, Any], otherwise: int) -> int:
    """Of the files that an engine loads, as the manifest's facts name them."""
    facts = manifest.get("facts")
    loaded = frozenset(facts.get("weights") or ()) if isinstance(facts, Mapping) else frozenset()
    size: int = sum(file["size"] for file in manifest.get("files", ()) if file["path"] in loaded)
    return size or otherwise


def fit(needed: MemoryNeed, memory_bytes: int | None, engines: Collection[str], format_: str | None) -> Fit:
    """How the model does on a machine with so much memory and these engines."""
    readers = _READERS.get(format_ or "")
    if readers is not None and not readers.intersection(engines):
        return Fit.NO_ENGINE
    if memory_bytes is None:
        return Fit.UNKNOWN
    if needed.total > memory_bytes:
        return Fit.TOO_BIG
    return Fit.TIGHT if needed.comfortable > memory_bytes else Fit.FITS
