"""JSON from strangers: bounded before it is parsed, duplicate keys refused."""

import json
from typing import Any

from modelshare.server.registry.inspection.reader import RangeReader, head
from modelshare.server.registry.refused import Refused, shown

# Each value but the first follows one of , [ { so their number bounds what parsing can allocate (about 0.2 GB).
# The header of an unsharded model of 90,000 tensors, the most seen, has about 900,000.
_MAX_VALUES = 2_000_000
_MAX_CONFIG_BYTES = 16 << 20


def read_object(name: str, reader: RangeReader, max_bytes: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a file; raises `Refused` if it is too large, damaged, or no object."""
    if reader.size > max_bytes:
        raise Refused(
            f"{shown(name)} is larger than {max_bytes >> 20} MiB; push the model without it or make it smaller."
        )
    return parse_object(name, head(reader, reader.size))


def parse_object(name: str, data: bytes) -> dict[str, Any]:
    if sum(map(data.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise Refused(f"{shown(name)} holds more than {_MAX_VALUES:,} JSON values; split it into smaller files.")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{shown(name)} is not valid JSON ({_fault(error)}); repair it and push again.") from error
    if not isinstance(value, dict):
        raise Refused(f"{shown(name)} is valid JSON but not an object; repair it and push again.")
    return value


class _DuplicateKeyError(ValueError):
    pass


def _fault(error: ValueError | RecursionError) -> str:
    match error:
        case RecursionError():
            return "it is nested too deeply"
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case json.JSONDecodeError() | _DuplicateKeyError():
            return shown(str(error))
        case _:  # what is left of json's own: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
            return "a number in it has too many digits"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _DuplicateKeyError(f"the key {shown(twice)} appears twice")
    return fields
