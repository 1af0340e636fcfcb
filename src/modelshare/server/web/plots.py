"""Bar charts by day, as SVG without scripts and inline styles; pages also show the numbers in a table."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from modelshare.server.web.number_format import short, whole

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 160, 44, 20, 8


class Bar(NamedTuple):
    label: str
    value: int


def bars(data: Sequence[Bar], title: str) -> Markup:
    """A bar chart, with the first, middle and last labels below."""
    limit = max((bar.value for bar in data), default=0) or 1
    step = (_WIDTH - _LEFT) / max(len(data), 1)
    height = _HEIGHT - _BOTTOM - _TOP
    parts = [
        _line(_TOP + height * (1 - share), short(round(limit * share)))
        for share in ((0, 0.5, 1) if limit > 1 else (0, 1))
    ]
    for index, bar in enumerate(data):
        tall = max(height * bar.value / limit, 1.5 if bar.value else 0)
        parts.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1.5">'
                "<title>{}: {}</title></rect>"
            ).format(
                _LEFT + index * step + step * 0.12,
                _TOP + height - tall,
                step * 0.76,
                tall,
                bar.label,
                whole(bar.value),
            )
        )
    for index in sorted({0, len(data) // 2, len(data) - 1}) if data else ():
        anchor = "start" if index == 0 else "end" if index == len(data) - 1 else "middle"
        place = _LEFT + step * (index + {"start": 0, "middle": 0.5, "end": 1}[anchor])
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                place, _HEIGHT - 4, anchor, data[index].label
            )
        )
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, Markup("").join(parts)
    )


def _line(y: float, label: str) -> Markup:
    return Markup(
        '<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(_LEFT, _WIDTH, y, y, _LEFT - 6, y + 4, label)
