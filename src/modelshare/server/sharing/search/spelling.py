"""Which known word was meant. Pure.

Two words that differ by one letter (left out, too many, another, or two in each other's place) are alike once each has
lost the right letter: so a word is kept under every form with one letter left out, and found by exact look-ups alone.
"""

from collections.abc import Iterable

SHORTEST = 4
"""Letters of a word that is worth correcting; shorter ones are near to everything."""
_LONG = 8
"""Letters from which on two slips are forgiven, where the forms above find them."""


def can_be_corrected(word: str) -> bool:
    """Letters only: a number that is not there is another number and no slip."""
    return len(word) >= SHORTEST and word.isalpha()


def forms(word: str) -> set[str]:
    """The word, and the word without one of its letters."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def nearest(word: str, known: Iterable[str], limit: int) -> list[str]:
    """Those of the known words that are near enough, nearest first."""
    allowed = 2 if len(word) >= _LONG else 1
    rated = sorted((distance(word, each), each) for each in known)
    return [each for slips, each in rated if slips <= allowed][:limit]


def distance(one: str, other: str) -> int:
    """Slips that make one word of the other (Damerau and Levenshtein's, with adjacent letters swapped once)."""
    before, above = [0] * (len(other) + 1), list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, wanted in enumerate(other, 1):
            slips = min(above[column] + 1, line[-1] + 1, above[column - 1] + (letter != wanted))
            swapped = row > 1 and column > 1 and one[row - 2] == wanted and letter == other[column - 2]
            line.append(min(slips, before[column - 2] + 1) if swapped else slips)
        before, above = above, line
    return above[-1]
