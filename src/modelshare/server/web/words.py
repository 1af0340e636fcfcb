"""Sentences of services on pages. Pure."""

import re
from typing import Final

from markupsafe import Markup, escape

_CODE: Final = re.compile(r"`([^`]+)`")


def coded(text: str) -> Markup:
    """What stands between backticks becomes `<code>`; all else stays text."""
    parts = _CODE.split(text)  # every other part is code
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )
