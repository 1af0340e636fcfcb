"""A model's small JSON files, read with bounds."""

import json
import posixpath
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelshare.wire.text import plain

_MAX_BYTES: Final = 1 << 20
_MAX_SHOWN: Final = 80
_MAX_WHOLE: Final = 2**53
"""Every float above it is a whole number."""


class UnreadableError(Exception):
    """A declaration cannot be read; the text is one or two sentences for people."""


def printable(value: object) -> str:
    """A value from a file, fit for a sentence."""
    return plain(value if isinstance(value, str) else json.dumps(value, default=str), _MAX_SHOWN)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model, by their paths relative to its folder, with slashes."""

    paths: Container[str]
    read: Callable[[str, int], bytes]
    """At most so many bytes of a file that is in `paths`."""
    root: str = ""
    """The model's folder, where that is not the folder of all paths."""

    def has(self, path: str) -> bool:
        return posixpath.join(self.root, path) in self.paths

    def json(self, path: str) -> Any:
        """The content of a JSON file that is there. Raises UnreadableError."""
        data = self.read(posixpath.join(self.root, path), _MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UnreadableError(f"{printable(path)} is larger than {_MAX_BYTES >> 20} MiB; save the model again.")
        try:
            return json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"{printable(path)} is not valid JSON; repair it and push again.") from error

    def settings(self, path: str) -> Mapping[str, Any]:
        """The object in a JSON file; empty when there is no such file. Raises UnreadableError."""
        if not self.has(path):
            return {}
        found = self.json(path)
        if not isinstance(found, dict):
            raise UnreadableError(f"{printable(path)} does not hold a JSON object; save the model again.")
        return found


def whole_number(path: str, settings: Mapping[str, Any], key: str) -> int | None:
    """A positive whole number, however it is written; None when it is absent or null. Raises UnreadableError."""
    value = settings.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value > 0 or (abs(value) < _MAX_WHOLE and value != int(value)):
        raise UnreadableError(f"{path}: {key} is {printable(value)}, but must be a positive whole number.")
    return int(min(value, _MAX_WHOLE))


def truth(path: str, settings: Mapping[str, Any], key: str, *, default: bool) -> bool:
    """Raises UnreadableError for anything but true and false."""
    value = settings.get(key, default)
    if not isinstance(value, bool):
        raise UnreadableError(f"{path}: {key} is {printable(value)}, but must be true or false.")
    return value
