"""How the vectors of a text's tokens become one: the `config.json` of a Pooling module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelshare.embedder.files import UnreadableError, printable, truth, whole_number

_FLAGS: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Until release 5.3 there was one for each mode, which are joined in this order."""
_DIMENSIONS: Final = ("embedding_dimension", "word_embedding_dimension")
_KNOWN: Final = {*_FLAGS, *_DIMENSIONS, "pooling_mode", "include_prompt"}


@dataclass(frozen=True, slots=True)
class Pooling:
    modes: tuple[str, ...]
    """Their vectors are joined."""
    includes_prompt: bool
    unknown: tuple[str, ...]
    """Settings that no known release has."""


def read_pooling(path: str, settings: Mapping[str, Any]) -> Pooling:
    """Raises UnreadableError."""
    if all(whole_number(path, settings, key) is None for key in _DIMENSIONS):
        raise UnreadableError(f"{printable(path)} does not set embedding_dimension; save the model again.")
    if new := [key for key in settings if key.startswith("pooling_mode_") and key not in _FLAGS and settings[key]]:
        raise UnreadableError(f"{printable(path)} sets {printable(new[0])}, an unknown kind of pooling.")
    modes = _words(path, settings["pooling_mode"]) if "pooling_mode" in settings else _flags(path, settings)
    includes_prompt = truth(path, settings, "include_prompt", default=True)
    return Pooling(modes, includes_prompt, tuple(printable(key) for key in sorted(settings.keys() - _KNOWN)))


def _words(path: str, value: object) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    known = _FLAGS.values()
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word in known for word in words):
        raise UnreadableError(
            f"{printable(path)}: pooling_mode is {printable(value)}, but must be one or more of {', '.join(known)}."
        )
    return tuple(words)


def _flags(path: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    modes = tuple(mode for flag, mode in _FLAGS.items() if truth(path, settings, flag, default=False))
    return modes or ("mean",)  # as the library has it
