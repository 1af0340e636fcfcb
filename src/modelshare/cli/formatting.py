"""Formatting of numbers and times, and parsing of durations, dates and sizes."""

import re
from datetime import UTC, datetime

import typer

from modelshare.wire.units import minute, scaled

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_SIZES = {"M": 10**6, "G": 10**9, "T": 10**12}
_BYTES = (" B", " kB", " MB", " GB", " TB", " PB")
_COUNTS = ("", "K", "M", "B", "T")


def size(count: int | None) -> str:
    """Bytes in decimal units, as for disks and on model pages."""
    return "" if count is None else scaled(count, _BYTES)


def number(count: int | None) -> str:
    """A count such as `7.2B` (parameters) or `32.8K` (context)."""
    return "" if count is None else scaled(count, _COUNTS)


def when(seconds: int | None) -> str:
    """A point in time, UTC."""
    return "" if seconds is None else minute(seconds)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def duration(text: str) -> int:
    """Parses `90s`, `15m`, `24h` or `30d` to seconds. For use as an option's parser."""
    match = re.fullmatch(r"([1-9]\d{0,8})([smhd])", text.strip())
    if match is None:
        raise typer.BadParameter(f"Invalid duration {text!r}. Use a form such as 90s, 15m, 24h or 30d.")
    return int(match[1]) * _UNITS[match[2]]


def moment(text: str) -> int:
    """Parses a date with an optional time (default UTC) to Unix seconds. For use as an option's parser."""
    try:
        found = datetime.fromisoformat(text.strip())
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"Invalid date {text!r}. Use a form such as 2027-01-31 or 2027-01-31T12:00."
        ) from error


def size_of(text: str) -> int:
    """Parses `500MB`, `80GB` or `2TB` to bytes, in decimal units like `size`."""
    match = re.fullmatch(r"(\d{1,9}) ?([MGT])B", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"Invalid size {text!r}. Use a form such as 500MB, 80GB or 2TB.")
    return int(match[1]) * _SIZES[match[2].upper()]
