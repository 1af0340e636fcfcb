"""What names and texts of people may hold, and how one that holds more is shown: nothing steers a terminal or a reader.

A name is one line. Neither a name nor a text holds control characters or what turns the direction of the text after it:
by these a name reads as another one. Hebrew and Arabic read right without.
"""

import unicodedata
from typing import Annotated, Final

from pydantic import AfterValidator, Field

_CONTROLS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories: controls, halves of characters, and ends of lines and paragraphs."""
_JOINERS: Final = frozenset("\u200c\u200d")
"""Persian, the scripts of India, and emoji are written with them. Whatever else is invisible is no part of a name."""
_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Embeddings, overrides and isolates of Unicode's bidirectional algorithm (UAX 9)."""
_LAYOUT: Final = frozenset("\t\n\r")


def fits_name(character: str) -> bool:
    """True for what may stand in a name."""
    category = unicodedata.category(character)
    return category not in _CONTROLS and (category != "Cf" or character in _JOINERS)


def fits_text(character: str) -> bool:
    """True for what may stand in a text of several lines. Marks of direction may: they turn nothing but themselves."""
    return character in _LAYOUT or (unicodedata.category(character) not in _CONTROLS and character not in _TURNING)


def visible(text: str, keep: str = "") -> str:
    """The text with whatever may not stand in a name written as JSON writes it, by its number; but for `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or fits_name(c) else _escaped(c) for c in text)


def check_name(text: str) -> str:
    """The name without blanks around it. ValueError with a sentence where it holds what names do not, or nothing."""
    unfit = next((character for character in text if not fits_name(character)), None)
    if unfit is not None:
        raise ValueError(f"leave out {_code(unfit)}: names hold no control characters and none that are invisible")
    if not text.strip():
        raise ValueError("give at least one character that is no blank")
    return text.strip()


def check_line(text: str) -> str:
    """As `check_name`; but nothing is a line too."""
    return check_name(text) if text.strip(" ") else ""


def check_text(text: str) -> str:
    """The text as it is. ValueError with a sentence where it holds what texts do not."""
    unfit = next((character for character in text if not fits_text(character)), None)
    if unfit is not None:
        raise ValueError(
            f"leave out {_code(unfit)}: texts hold no control characters and none that turn the text after them around"
        )
    return text


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(check_name)]
"""What people call something: one line."""
Line = Annotated[str, AfterValidator(check_line)]
"""A fact in words, on one line."""
Text = Annotated[str, AfterValidator(check_text)]
"""What people write, on as many lines as they like."""
