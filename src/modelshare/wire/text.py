"""Texts that strangers give and people read, on one line."""

import re
from typing import Final

_UNFIT: Final = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters, line separators and what changes the direction of a text: they let a line read as another one."""
PLAIN: Final = rf"^[^{_UNFIT}]*\Z"
"""Matches a text without them."""
PLAIN_PATH: Final = rf"^(?!(?:.*/)?\.{{0,2}}(?:/|\Z))[^{_UNFIT}\\]+\Z"
"""Matches a relative path that stays within its folder, without them."""
_unfit = re.compile(f"[{_UNFIT}]")


def plain(text: str, most: int) -> str:
    """The text with a space for what is unfit, cut to `most` characters."""
    return _unfit.sub(" ", text[:most])
