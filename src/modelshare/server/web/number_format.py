"""Formats numbers, sizes and times for users. Pure."""

from decimal import Decimal
from typing import Final

from modelshare.wire.units import minute, moment, scale

UNKNOWN: Final = "–"  # noqa: RUF001 - the dash that is meant
_STEPS: Final = ("", "k", "M", "G", "T", "P", "E")
_BILLION: Final = 1_000_000_000
_EXACT: Final = 100
"""From this value on, no decimals are shown."""
_AGO: Final = ((31_557_600, "year"), (2_629_800, "month"), (86_400, "day"), (3_600, "hour"), (60, "minute"))


def size(count: int | None) -> str:
    """Bytes, in powers of 1000: `4.1 GB`."""
    return UNKNOWN if count is None else f"{_short(count, ' ')}B"


def short(count: int | None) -> str:
    """A count: `1.2k`, `3M`."""
    return UNKNOWN if count is None else _short(count, "")


def parameters(count: int | None) -> str:
    """Of a model: `7.2B`, `22M`."""
    if count is None:
        return UNKNOWN
    return f"{_digits(count / _BILLION)}B" if count >= _BILLION else _short(count, "")


def context(tokens: int | None) -> str:
    """A context length in tokens: `8K` for 8192, `40,000` if it is not a multiple of 1024."""
    if tokens is None:
        return UNKNOWN
    whole, rest = divmod(tokens, 1024)
    return f"{whole}K" if whole and not rest else f"{tokens:,}"


def whole(count: int) -> str:
    """All digits, with separators: `1,234,567`."""
    return f"{count:,}"


def cost(amount: Decimal) -> str:
    """With two to six decimals: `0.0125`, `1,204.50`."""
    units, _, decimals = f"{amount:,.6f}".partition(".")
    return f"{units}.{decimals.rstrip('0').ljust(2, '0')}"


def date(seconds: int) -> str:
    """Unix seconds as `2026-11-24 23:10 UTC`."""
    return f"{minute(seconds)} UTC"


def iso(seconds: int) -> str:
    """Unix seconds in the format of HTML's `datetime`."""
    return moment(seconds).isoformat()


def ago(seconds: int, now: int) -> str:
    """How long before (or after) `now`, roughly: `3 days ago`, `in 2 hours`."""
    distance = abs(now - seconds)
    for length, unit in _AGO:
        if distance >= length:
            count = distance // length
            words = f"{count} {unit}{'s' if count > 1 else ''}"
            return f"{words} ago" if seconds <= now else f"in {words}"
    return "just now" if seconds <= now else "in a moment"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 endpoint`, `2 endpoints`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _short(count: int, space: str) -> str:
    value, step = scale(count, _STEPS, digits=0)
    return f"{_digits(value)}{space}{step}"


def _digits(value: float) -> str:
    """With one decimal if it is significant."""
    return f"{value:.0f}" if value >= _EXACT or value == int(value) else f"{value:.1f}".removesuffix(".0")
