"""Parses the `Range` header of HTTP (RFC 9110 section 14): a single range of bytes."""

import re

_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.ASCII | re.IGNORECASE)


class UnsatisfiableRangeError(Exception):
    """The range starts after the end of the file: status 416."""


def parse_range(header: str | None, size: int) -> range | None:
    """The requested bytes of a file of `size` bytes; None for the whole file.

    As the RFC allows, a header that is malformed or requests several ranges is ignored, and so is any range of an empty
    file, for which no valid Content-Range exists. Raises UnsatisfiableRangeError.
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
