"""Values of configuration files, each checked for what it has to be. Pure, and light: no numpy."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from modelshare.wire.text import plain

_MAX: Final = (1 << 31) - 1
"""GGUF holds larger numbers, llama.cpp does not."""
_SHOWN: Final = 80
_Number = TypeVar("_Number", int, float)


class ConversionError(Exception):
    """The model cannot be converted; the text is one sentence for people."""


Json = Mapping[str, Any]


def printable(value: object) -> str:
    """A value or a name from a file, fit for a sentence."""
    return plain(value if isinstance(value, str) else json.dumps(value, default=str), _SHOWN)


def whole(values: Json, key: str, default: int | None = None, *, least: int = 1) -> int:
    """A whole number, however it is written. Without a default it has to be there."""
    value = values.get(key)
    if value is None:
        return _present(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= _MAX or value != int(value):  # in this order: NaN is no int
        raise ConversionError(f"its {key} is {printable(value)}, but must be a whole number from {least} to {_MAX}.")
    return int(value)


def number(values: Json, key: str, default: float | None = None) -> float:
    """A positive number. Without a default it has to be there."""
    value = values.get(key)
    if value is None:
        return _present(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if not is_number or value <= 0:
        raise ConversionError(f"its {key} is {printable(value)}, but must be a positive number.")
    return float(value)


def mapping(values: Json, key: str) -> Json:
    """An object; empty when it is absent or null."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConversionError(f"its {key} is {printable(value)}, but must be an object.")
    return value


def truth(values: Json, key: str) -> bool:
    """False when it is absent or null."""
    value = values.get(key)
    if not isinstance(value, bool | None):
        raise ConversionError(f"its {key} is {printable(value)}, but must be true or false.")
    return bool(value)


_LARGEST: Final = 3.4e38
"""Of float32, as which GGUF stores it."""


def _present(key: str, default: _Number | None) -> _Number:
    if default is None:
        raise ConversionError(f"its config.json does not set {key}.")
    return default
