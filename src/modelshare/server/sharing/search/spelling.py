"""Finds the known words nearest to a misspelled one. Pure.

Two words that differ by one letter (missing, added, replaced, or two swapped) are equal once the right letter is
removed from each. So a word is stored under every form with one letter removed, and exact look-ups are enough to find
it.
"""

from collections.abc import Iterable

SHORTEST = 4
"""Letters of the shortest word to correct; shorter ones are similar to too many."""
_LONG = 8
"""Letters from which two mistakes are corrected, if the forms above find them."""


def can_be_corrected(word: str) -> bool:
    """Only words of letters are corrected: an unknown number is not a misspelling."""
    return len(word) >= SHORTEST and word.isalpha()


def forms(word: str) -> set[str]:
    """The word, and the word without each one of its letters."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def nearest(word: str, known: Iterable[str], limit: int) -> list[str]:
    """The known words that are near enough, nearest first."""
    allowed = 2 if len(word) >= _LONG else 1
    rated = sorted((distance(word, each), each) for each in known)
    return [each for slips, each in rated if slips <= allowed][:limit]


def distance(one: str, other: str) -> int:
    """Edit distance (Damerau-Levenshtein, optimal string alignment)."""
    before, above = [0] * (len(other) + 1), list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, wanted in enumerate(other, 1):
            slips = min(above[column] + 1, line[-1] + 1, above[column - 1] + (letter != wanted))
            swapped = row > 1 and column > 1 and one[row - 2] == wanted and letter == other[column - 2]
            line.append(min(slips, before[column - 2] + 1) if swapped else slips)
        before, above = above, line
    return above[-1]
