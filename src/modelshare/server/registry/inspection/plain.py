"""Makes values from files safe to store and show: bounded, printable, and exact in JSON."""

from collections.abc import Iterator

from modelshare.wire.text import fits_name, fits_text

_MAX_INTEGER = 2**53 - 1


def plain_text(value: object, limit: int = 200) -> str | None:
    """`value` on one line without control characters, at most `limit` characters; None if it is not a text."""
    if not isinstance(value, str):
        return None
    words = plain_lines(value[: 4 * limit]).split()
    return "".join(filter(fits_name, " ".join(words)))[:limit].strip() or None


def plain_texts(value: object, limit: int = 100) -> tuple[str, ...]:
    """The distinct texts of a string or a list of strings, in order, at most `limit` of them."""
    return tuple(dict.fromkeys(_texts(value)))[:limit]


def plain_lines(value: str) -> str:
    """`value` without control characters, unpaired surrogates and bidirectional controls; line ends become a newline."""
    return "".join(filter(fits_text, value.replace("\r\n", "\n").replace("\r", "\n")))


def positive_integer(value: object) -> int | None:
    """`value` if it is a whole number from 1 to 2^53 - 1; JSON may write 2048 as 2048.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= _MAX_INTEGER else None


def _texts(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        if (text := plain_text(item)) is not None:
            yield text
