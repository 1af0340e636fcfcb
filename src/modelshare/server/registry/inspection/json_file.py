"""Parses untrusted JSON, with limits checked before parsing, and in the way the loaders parse it.

Transformers reads with Python's own `json`: UTF-8 without a byte order mark, NaN and Infinity are numbers, and the last
of a repeated key counts.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from modelshare.server.registry.inspection.reader import RangeReader, check_no_pointer, head
from modelshare.server.registry.refused import ModelRejectedError, printable

# Each value but the first follows one of , [ { so their number bounds what parsing can allocate (about 0.2 GB).
# The header of an unsharded model of 90,000 tensors, the most seen, has about 900,000.
_MAX_VALUES = 2_000_000
_MAX_CONFIG_BYTES = 16 << 20
_MAX_DEPTH = 128  # serde_json's limit; Transformers fails at about 400
_BYTE_ORDER_MARK = "\ufeff"

Pairs = list[tuple[str, Any]]


def read_object(name: str, reader: RangeReader, max_bytes: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelRejectedError if it is too large, damaged, or not an object."""
    value = read_value(name, reader, max_bytes)
    if not isinstance(value, dict):
        raise ModelRejectedError(f"{printable(name)} is valid JSON but not an object; repair it and push again.")
    return value


def read_value(name: str, reader: RangeReader, max_bytes: int = _MAX_CONFIG_BYTES) -> Any:
    """The JSON value in a file, of any type."""
    if reader.size > max_bytes:
        raise ModelRejectedError(
            f"{printable(name)} is larger than {max_bytes >> 20} MiB; push the model without it or make it smaller."
        )
    if not reader.size:
        raise ModelRejectedError(
            f"{printable(name)} is empty, but loaders expect JSON in it; save it again, or push without it."
        )
    check_no_pointer(name, reader)
    return _parse(name, head(reader, reader.size))


def parse_unambiguous_object(name: str, data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, if all parsers agree on it: no repeated keys in any object, no -0 as an integer."""
    value = _parse(name, data, object_pairs_hook=_without_duplicates, parse_int=_strict_integer(data))
    if not isinstance(value, dict):
        raise ModelRejectedError(f"{printable(name)} is valid JSON but not an object; repair it and push again.")
    return value


def is_unicode(texts: Iterable[str]) -> bool:
    """Whether all can be encoded: Python accepts half of a surrogate pair in JSON, most other parsers do not."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse(name: str, data: bytes, **hooks: Any) -> Any:
    if sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise ModelRejectedError(
            f"{printable(name)} contains more than {_MAX_VALUES:,} JSON values; split it into smaller files."
        )
    try:
        value = json.loads(_text(data), **hooks)
        _check_depth(value, containers=data.count(b"[") + data.count(b"{"))
    except (ValueError, RecursionError) as error:
        raise ModelRejectedError(
            f"{printable(name)} is not valid JSON ({_fault(error)}); repair it and push again."
        ) from error
    return value


class _FaultError(ValueError):
    """The text is shown."""


def _text(data: bytes) -> str:
    text = data.decode()
    if text.startswith(_BYTE_ORDER_MARK):
        raise _FaultError("it starts with a byte order mark; save it as plain UTF-8")
    return text


def _check_depth(value: Any, containers: int) -> None:
    if containers <= _MAX_DEPTH:
        return
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise RecursionError


def _strict_integer(data: bytes) -> Callable[[str], float] | None:
    """Parsers other than Python's read -0 as a float. The hook is slow, so it is used only if there may be one."""
    return (lambda digits: -0.0 if digits == "-0" else int(digits)) if b"-0" in data else None


def _fault(error: ValueError | RecursionError) -> str:
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case json.JSONDecodeError() | _FaultError():
            return printable(str(error))
        case _:  # what is left of json's own: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
            return "a number in it has too many digits"


def _without_duplicates(pairs: Pairs) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _FaultError(f"the key {printable(twice)} appears twice")
    return fields
