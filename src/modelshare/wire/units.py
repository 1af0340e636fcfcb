"""Human-readable sizes and times. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_STEP: Final = 1000
_BYTES: Final = (" bytes", " kB", " MB", " GB", " TB")
_LAST_SECOND: Final = 253_402_300_799
"""The last second of the year 9999."""


def size(count: int) -> str:
    """A size for use in a sentence: `12.3 GB`, in decimal units as disks are sold."""
    return scaled(count, _BYTES)


def scaled(count: int, units: Sequence[str]) -> str:
    """The count with one decimal in the unit chosen by `scale`; exact in the first unit."""
    value, unit = scale(count, units)
    return f"{count}{unit}" if unit == units[0] else f"{value:.1f}{unit}"


def scale(count: int, units: Sequence[str], *, digits: int = 1) -> tuple[float, str]:
    """The count in the largest of these units in which it is at least 1. Each unit is a thousand of the previous one.

    `digits`: the number of decimals to which the result will be rounded, so that 999,960 is 1.0 MB and not 1000.0 kB.
    """
    value, unit = float(count), units[0]
    for larger in units[1:]:
        if round(abs(value), digits) < _STEP:
            break
        value, unit = value / _STEP, larger
    return value, unit


def moment(seconds: int) -> datetime:
    """Converts Unix seconds to a UTC datetime, clamped to the years 1970 to 9999."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC)


def minute(seconds: int) -> str:
    """Unix seconds as `2026-11-24 23:10`, UTC."""
    return moment(seconds).strftime("%Y-%m-%d %H:%M")
