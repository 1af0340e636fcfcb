"""What counts as a word: one pure function for what is stored and for what is asked, so that both mean the same."""

import re
import unicodedata

MAX_WORDS = 200
"""Distinct words that are kept of one model."""
MAX_ASKED = 10
"""Words of a query that count."""
LONGEST = 24
"""Characters of a word that count."""
_MAX_CHARACTERS = 20_000
"""Of a text that are looked at."""
_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Scripts that write no spaces: kana and Chinese characters."""
_WORD = re.compile(rf"(?![\W_])[{_ONE_BY_ONE}]|[^\W\d_{_ONE_BY_ONE}]+|\d+")
_VOICING = 8
"""Combining class of kana's voicing marks, which tell syllables apart and are no accents."""


def words(text: str, limit: int = MAX_WORDS) -> list[str]:
    """The distinct words of a text, in order: runs of letters, runs of digits, and each Chinese or Japanese character.

    Case, accents and compatibility forms make no difference. A word that is too long is cut. There is no character in a
    word that either database's query language knows.
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
