"""Which characters names and texts may contain, and how to display others safely.

A name is one line. Neither names nor texts may contain control characters or characters that override the text
direction, with which a name could be made to look like another one. Hebrew and Arabic do not need them.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
"""Control characters, line and paragraph separators, and surrogates: Unicode's categories Cc, Zl, Zp and Cs."""
_TURNING: Final = r"\u202a-\u202e\u2066-\u2069"
"""Embeddings, overrides and isolates of Unicode's bidirectional algorithm (UAX 9)."""
_INVISIBLE: Final = (
    r"\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2060-\u2064\u206a-\u206f"
    r"\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0001\U000e0020-\U000e007f"
)
"""The rest of Unicode's category Cf, except U+200C and U+200D, which Persian, Indic scripts and emoji need. Spelled
out, so that both sides of the wire agree regardless of the Unicode version of their Python."""
_NOT_IN_NAMES: Final = _CONTROLS + _TURNING + _INVISIBLE
PLAIN: Final = rf"^[^{_NOT_IN_NAMES}]*\Z"
"""Matches one line that is allowed as a name (or empty)."""
PLAIN_PATH: Final = rf"^(?!(?:.*/)?\.{{0,2}}(?:/|\Z))[^{_NOT_IN_NAMES}\\]+\Z"
"""Matches a relative path of such characters that does not leave its folder."""
_not_in_name: Final = re.compile(f"[{_NOT_IN_NAMES}]")
_not_in_text: Final = re.compile(f"(?![\\t\\n\\r])[{_CONTROLS}{_TURNING}]")


def fits_name(text: str) -> bool:
    """Whether all characters are allowed in a name."""
    return _not_in_name.search(text) is None


def fits_text(text: str) -> bool:
    """Whether all characters are allowed in a multi-line text. Direction marks are: they affect no other text."""
    return _not_in_text.search(text) is None


def plain(text: str, limit: int) -> str:
    """One line of at most `limit` characters, with a space for each character that is not allowed in a name."""
    return _not_in_name.sub(" ", text[:limit])


def visible(text: str, keep: str = "") -> str:
    """The text with characters that are not allowed in a name (except those in `keep`) escaped as in JSON."""
    return _not_in_name.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def readable(text: str) -> str:
    """The text with characters that are not allowed in a text escaped as in JSON."""
    return _not_in_text.sub(lambda found: _escaped(found[0]), text)


def check_name(text: str) -> str:
    """The name, stripped. Raises ValueError with a sentence if it is blank or contains a disallowed character."""
    if unfit := _not_in_name.search(text):
        raise ValueError(f"leave out {_code(unfit[0])}: control and invisible characters are not allowed in names")
    if not text.strip():
        raise ValueError("give at least one character that is not blank")
    return text.strip()


def check_line(text: str) -> str:
    """Like `check_name`, but the line may be empty."""
    return check_name(text) if text.strip(" ") else ""


def check_text(text: str) -> str:
    """The text unchanged. Raises ValueError with a sentence if it contains a disallowed character."""
    if unfit := _not_in_text.search(text):
        what = "control characters and characters that reverse the text direction are not allowed"
        raise ValueError(f"leave out {_code(unfit[0])}: {what}")
    return text


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_name)]
"""A display name: one line."""
Line = Annotated[str, AfterValidator(check_line)]
"""One line of text, may be empty."""
Text = Annotated[str, AfterValidator(check_text)]
"""Text of any number of lines."""
