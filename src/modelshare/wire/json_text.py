"""Explains why a request body is not valid JSON."""

import json
from typing import Any, Final

_BEGINNINGS: Final = {
    b"\x1f\x8b": "The body is compressed (gzip). Send it uncompressed and without `Content-Encoding`.",
    b"\x28\xb5\x2f\xfd": "The body is compressed (zstd). Send it uncompressed and without `Content-Encoding`.",
    b"\xff\xfe": "The body is encoded as UTF-16. Send JSON encoded as UTF-8.",
    b"\xfe\xff": "The body is encoded as UTF-16. Send JSON encoded as UTF-8.",
    b"\xef\xbb\xbf": "The body begins with a byte order mark (EF BB BF), which is not valid JSON. Send it without.",
}


class _NoNumberError(ValueError):
    pass


def flaw(body: bytes) -> str | None:
    """Why the body is not interoperable JSON (RFC 8259), in a sentence or two; None if it is."""
    if not body.strip():
        return "The body is empty. Send a JSON object with `Content-Type: application/json`."
    known = next((words for beginning, words in _BEGINNINGS.items() if body.startswith(beginning)), None)
    if known is not None:
        return known
    try:
        value = json.loads(body.decode(), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return _words(body, error)
    return None


def _words(body: bytes, error: Exception) -> str:
    match error:
        case UnicodeDecodeError():
            where = f"byte {error.start} (0x{body[error.start]:02x})"
            return f"The body is not JSON in UTF-8: {where} is not part of a character."
        case UnicodeEncodeError():
            half = f"\\u{ord(error.object[error.start]):04x}"
            return f"The body has `{half}` in a string, half of a surrogate pair. Send both halves or neither."
        case _NoNumberError():
            return f"The body contains the value `{error}`, which is not valid JSON. Send a number or null."
        case json.JSONDecodeError():
            return _not_json(error)
        case RecursionError():
            return "The body is nested too deeply."
    return "The body contains a number with too many digits."  # more than Python's int() accepts


def _refuse(constant: str) -> Any:
    raise _NoNumberError(constant)


def _not_json(error: json.JSONDecodeError) -> str:
    is_cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    if is_cut:
        return "The body ends before its JSON does: it was truncated, or a bracket or quote is missing."
    where = f"line {error.lineno}, column {error.colno}"
    return f"The body is not valid JSON ({error.msg[0].lower()}{error.msg[1:]} at {where})."
