"""What counts as a word: one pure function for what is stored and for what is asked, so that both mean the same."""

import re
import unicodedata

MOST_WORDS = 200
"""Distinct words that are kept of one model."""
MOST_ASKED = 10
"""Words of a query that count."""
LONGEST = 24
"""Characters of a word that count."""
_MOST_CHARACTERS = 20_000
"""Of a text that are looked at."""
_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Scripts that write no spaces: kana and Chinese characters."""
_WORD = re.compile(rf"(?![\W_])[{_ONE_BY_ONE}]|[^\W\d_{_ONE_BY_ONE}]+|\d+")
_VOICING = 8
"""Combining class of kana's voicing marks, which tell syllables apart and are no accents."""


def words(text: str, most: int = MOST_WORDS) -> list[str]:
    """The distinct words of a text, in order: runs of letters, runs of digits, and each Chinese or Japanese character.

    Case, accents and compatibility forms make no difference. A word that is too long is cut. There is no character in a
    word that either database's query language knows.
    """
    found: dict[str, None] = {}
    for match in _WORD.finditer(_folded(text[:_MOST_CHARACTERS])):
        found[match[0][:LONGEST]] = None
        if len(found) == most:
            break
    return list(found)


def asked(query: str) -> list[str]:
    """The words of a query."""
    return words(query, MOST_ASKED)


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", "".join(filter(_is_no_accent, decomposed)))


def _is_no_accent(character: str) -> bool:
    return not unicodedata.category(character).startswith("M") or unicodedata.combining(character) == _VOICING
