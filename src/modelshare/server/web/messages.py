"""What is said to programs and people alike, as people read it on a page."""

import re
from typing import Final

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=\S)")
_ROUTE: Final = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) /")
_ANEW: Final = (
    (
        re.compile(r"Invalid `after` cursor.*"),
        "Invalid link to a page of the list. Go back to its first page.",
    ),
    (re.compile(r"Invalid model ID"), "Invalid link to a model. Look for the model in the catalog."),
    (re.compile(r"`deadline`: Input should be less than .*"), "Choose a deadline before the year 2200."),
)
"""What programs are told of a value, and people of the link or the form that had it."""
_INPUT: Final = (
    (re.compile(r"\bInput should be (?=')"), "Choose "),
    (re.compile(r"\bInput should be "), "This must be "),
    (re.compile(r"\bString should have "), "Use "),
)
"""How pydantic begins what it says."""


def humanize_error(message: str) -> str:
    """The message without words of programs, and without sentences that name a route of the API where it says more."""
    for programs, people in _ANEW:
        if programs.fullmatch(message):
            return people
    for begins, people in _INPUT:
        message = begins.sub(people, message)
    rest = " ".join(each for each in _SENTENCE.split(message) if not _ROUTE.search(each))
    return rest or message
