"""What is said to programs and people alike, as people read it on a page."""

import re
from typing import Final

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=\S)")
_ROUTE: Final = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) /")


def for_people(message: str) -> str:
    """The message without sentences that name a route of the API, unless it says nothing else."""
    rest = " ".join(each for each in _SENTENCE.split(message) if not _ROUTE.search(each))
    return rest or message
