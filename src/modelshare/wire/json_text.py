"""What is wrong with bytes that are to be JSON, in words."""

import json
from typing import Any, Final

_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_ADVICE: Final = "Send it as it is, without `Content-Encoding`."


class _NoNumberError(ValueError):
    pass


def flaw(body: bytes) -> str | None:
    """Why the body is not JSON that everybody reads alike (RFC 8259), as a sentence or two; None where it is."""
    for beginning, name in _COMPRESSED.items():
        if body.startswith(beginning):
            return f"The body is compressed ({name}). {_ADVICE}"
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "The body is in UTF-16. Send JSON in UTF-8."
    if body.startswith(b"\xef\xbb\xbf"):
        return "The body begins with a byte order mark (EF BB BF), which is no JSON. Send it without."
    if not body.strip():
        return "The body is empty. Send a JSON object with `Content-Type: application/json`."
    try:
        value = json.loads(body.decode(), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return f"The body is not JSON in UTF-8: byte {error.start} (0x{body[error.start]:02x}) belongs to no character."
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        return f"The body has `{half}` in a string, one half of a character (a lone surrogate). Send both or neither."
    except _NoNumberError as error:
        return f"The body has `{error}` for a value, which is no JSON. Send a number or null."
    except json.JSONDecodeError as error:
        return _not_json(error)
    except RecursionError:
        return "The body is nested too deeply."
    except ValueError:  # Python's own limit
        return "The body has a number with too many digits."
    return None


def _refuse(constant: str) -> Any:
    raise _NoNumberError(constant)


def _not_json(error: json.JSONDecodeError) -> str:
    is_cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    if is_cut:
        return "The body ends before its JSON does: it was cut off, or a bracket or quote is missing."
    where = f"line {error.lineno}, column {error.colno}"
    return f"The body is not valid JSON ({error.msg[0].lower()}{error.msg[1:]} at {where})."
