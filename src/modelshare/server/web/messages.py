"""Rewrites messages of the API for pages."""

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
"""Texts about values for programs, and about links and forms for users."""
_INPUT: Final = (
    (re.compile(r"\bInput should be (?=')"), "Choose "),
    (re.compile(r"\bInput should be "), "This must be "),
    (re.compile(r"\bString should have "), "Use "),
)
"""Prefixes of pydantic's messages."""


def humanize_error(message: str) -> str:
    """The message without technical terms, and without sentences about API routes if others remain."""
    for programs, people in _ANEW:
        if programs.fullmatch(message):
            return people
    for begins, people in _INPUT:
        message = begins.sub(people, message)
    rest = " ".join(each for each in _SENTENCE.split(message) if not _ROUTE.search(each))
    return rest or message
