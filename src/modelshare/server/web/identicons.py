"""Identicons for model families: always the same for the same name. Pure."""

import functools
import hashlib

from markupsafe import Markup

_SIZE = 40
_CELLS = 5


@functools.lru_cache(maxsize=512)
def mark(family: str | None) -> Markup:
    """A square, symmetric SVG, in colours for light and dark backgrounds."""
    digest = hashlib.sha256((family or "").casefold().encode("utf-8", "replace")).digest()
    hue, turn = digest[0] * 360 // 256, 40 + digest[1] % 80
    cells = []
    for column in range((_CELLS + 1) // 2):
        for row in range(_CELLS):
            if digest[2 + column * _CELLS + row] % 2:
                cells += [_cell(column, row), *([_cell(_CELLS - 1 - column, row)] if column < _CELLS // 2 else [])]
    return Markup(
        '<svg class="mark" viewBox="0 0 {size} {size}" aria-hidden="true" focusable="false">'
        '<rect width="{size}" height="{size}" rx="9" fill="hsl({hue} 55% 42%)"/>'
        '<path fill="hsl({other} 85% 88%)" d="{path}"/></svg>'
    ).format(size=_SIZE, hue=hue, other=(hue + turn) % 360, path="".join(cells))


def _cell(column: int, row: int) -> str:
    return f"M{5 + column * 6} {5 + row * 6}h6v6h-6z"
