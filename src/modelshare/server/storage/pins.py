"""What an object that others keep has to be: its ETag and, where the bucket keeps versions, its version. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote


@dataclass(frozen=True, slots=True)
class Pin:
    etag: str
    """Without quotation marks, which not every server sends."""
    version: str | None = None
    """None where the bucket keeps no versions."""

    def __str__(self) -> str:
        return "@".join(quote(part, safe="") for part in (self.etag, self.version) if part is not None)

    @classmethod
    def parse(cls, text: str) -> "Pin":
        etag, _, version = text.partition("@")
        return cls(unquote(etag), unquote(version) or None)


def etag_of(answer: Mapping[str, Any]) -> str:
    """Of an object, or an entry of a listing. Empty where the server sends none."""
    return str(answer.get("ETag", "")).removeprefix("W/").strip('"')


def pinned_key(pin: str, path: str) -> str:
    """The key of an object that lies in place: a store reads it only as long as the pin holds."""
    return f"{pin}/{path}"


def split_key(key: str) -> tuple[Pin, str]:
    pin, _, path = key.partition("/")
    return Pin.parse(pin), path
