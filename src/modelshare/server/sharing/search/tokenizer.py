"""Splits texts into words. Pure; the same for entries and queries."""

import re
import unicodedata

MAX_WORDS = 200
"""Distinct words stored for a model."""
MAX_ASKED = 10
"""Words of a query; more are ignored."""
LONGEST = 24
"""Characters of a word; more are cut off."""
_MAX_CHARACTERS = 20_000
"""Of a text; more are ignored."""
_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Scripts without spaces between words: kana and Chinese characters."""
_WORD = re.compile(rf"(?![\W_])[{_ONE_BY_ONE}]|[^\W\d_{_ONE_BY_ONE}]+|\d+")
_VOICING = 8
"""Combining class of kana's voicing marks, which distinguish syllables and are not accents."""


def words(text: str, limit: int = MAX_WORDS) -> list[str]:
    """The distinct words of a text, in order: runs of letters, runs of digits, and each Chinese or Japanese character.

    Ignores case, accents and compatibility forms. Truncates long words. Words contain no characters with a meaning in
    either database's query language.
    """
    found: dict[str, None] = {}
    for match in _WORD.finditer(_folded(text[:_MAX_CHARACTERS])):
        found[match[0][:LONGEST]] = None
        if len(found) == limit:
            break
    return list(found)


def asked(query: str) -> list[str]:
    """The words of a query."""
    return words(query, MAX_ASKED)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", "".join(filter(_is_no_accent, decomposed)))


def _is_no_accent(character: str) -> bool:
    return not unicodedata.category(character).startswith("M") or unicodedata.combining(character) == _VOICING
