"""Validates values of configuration files. Pure; does not import numpy."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from modelshare.wire.text import plain

_MAX: Final = (1 << 31) - 1
"""GGUF supports larger numbers, but llama.cpp does not."""
_SHOWN: Final = 80
_Number = TypeVar("_Number", int, float)


class ConversionError(Exception):
    """The model cannot be converted; the message is one human-readable sentence."""


Json = Mapping[str, Any]


def printable(value: object) -> str:
    """A value or name from a file, made safe for use in a sentence."""
    return plain(value if isinstance(value, str) else json.dumps(value, default=str), _SHOWN)


def whole(values: Json, key: str, default: int | None = None, *, least: int = 1) -> int:
    """An integer, in any notation. Required if there is no default."""
    value = values.get(key)
    if value is None:
        return _present(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= _MAX or value != int(value):  # in this order, since int(NaN) fails
        raise ConversionError(f"its {key} is {printable(value)}, but must be a whole number from {least} to {_MAX}.")
    return int(value)


def number(values: Json, key: str, default: float | None = None) -> float:
    """A positive number. Required if there is no default."""
    value = values.get(key)
    if value is None:
        return _present(key, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if not is_number or value <= 0:
        raise ConversionError(f"its {key} is {printable(value)}, but must be a positive number.")
    return float(value)


def mapping(values: Json, key: str) -> Json:
    """An object; empty if missing or null."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConversionError(f"its {key} is {printable(value)}, but must be an object.")
    return value


def truth(values: Json, key: str) -> bool:
    """A boolean; False if missing or null."""
    value = values.get(key)
    if not isinstance(value, bool | None):
        raise ConversionError(f"its {key} is {printable(value)}, but must be true or false.")
    return bool(value)


_LARGEST: Final = 3.4e38
"""The maximum of float32, which GGUF uses."""


def _present(key: str, default: _Number | None) -> _Number:
    if default is None:
        raise ConversionError(f"its config.json does not set {key}.")
    return default
