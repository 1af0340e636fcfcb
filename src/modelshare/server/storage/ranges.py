"""The `Range` header of HTTP (RFC 9110 section 14): one range of bytes, or none."""

import re

_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII | re.IGNORECASE)


class UnsatisfiableRangeError(Exception):
    """The range starts behind the end: status 416."""


def parse_range(header: str | None, size: int) -> range | None:
    """The bytes asked for of `size`, or None for all of them.

    As the RFC allows, a header that is malformed or asks for several ranges counts as absent, and so does any range
    of an empty file, which has no valid Content-Range. Raises Unsatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header) if header is not None else None
    if match is None or size == 0:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(last, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise UnsatisfiableRangeError
    return range(start, min(int(last) + 1, size) if last else size)


def _suffix(length: str, size: int) -> range | None:
    if not length:
        return None
    if int(length) == 0:
        raise UnsatisfiableRangeError
    return range(max(0, size - int(length)), size)
