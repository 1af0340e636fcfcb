"""Sizes and times for people to read. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

_STEP: Final = 1000
_BYTES: Final = (" bytes", " kB", " MB", " GB", " TB")
_LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999."""


def size(count: int) -> str:
    """Bytes in a sentence: `12.3 GB`, in decimal units as disks are sold."""
    return scaled(count, _BYTES)


def scaled(count: int, units: Sequence[str]) -> str:
    """The count with one digit after the point, in the unit that `scale` finds; exact in the first of them."""
    value, unit = scale(count, units)
    return f"{count}{unit}" if unit == units[0] else f"{value:.1f}{unit}"


def scale(count: int, units: Sequence[str], *, digits: int = 1) -> tuple[float, str]:
    """The count in the last of these units, each a thousand of the one before, in which it reads as 1 or more.

    `digits`: to how many after the point it will be rounded, so that 999,960 is 1.0 MB and not 1000.0 kB.
    """
    value, unit = float(count), units[0]
    for larger in units[1:]:
        if round(abs(value), digits) < _STEP:
            break
        value, unit = value / _STEP, larger
    return value, unit


def moment(seconds: int) -> datetime:
    """Unix seconds as UTC. Years that a calendar does not have are held at its ends."""
    return datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), UTC)


def minute(seconds: int) -> str:
    """Unix seconds as `2026-11-24 23:10`, UTC."""
    return moment(seconds).strftime("%Y-%m-%d %H:%M")
