"""Which of a model's files llama.cpp is to open."""

import glob
import re
from pathlib import Path
from typing import Final

_FIRST_KEY: Final = b"general.architecture"
_COMPANIONS: Final = frozenset({"clip", "wavtokenizer-dec"})  # projectors and decoders that a model is loaded with
_HEAD_BYTES: Final = 256
_FIRST_PART: Final = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")


def model_file(path: Path) -> Path | None:
    """The first model by name; of a split one that is its first part, from which llama.cpp finds the others."""
    if path.is_file():
        return path
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".gguf" and file.is_file())
    models = [file for file in files if _architecture(file) not in _COMPANIONS]
    return next(iter(models or files), None)


def model_size(file: Path) -> int:
    """Bytes of the model that begins with this file: of all its parts, where it is split."""
    named = _FIRST_PART.fullmatch(file.name)
    parts = file.parent.glob(f"{glob.escape(named[1])}-?????-of-{named[2]}.gguf") if named else (file,)
    return sum(part.stat().st_size for part in parts)


def _architecture(file: Path) -> str | None:
    """`general.architecture`, where it is the first key, as every writer puts it.

    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: magic, version, two counts; then key length, key, type,
    value length, value.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    key_at = 4 + 4 + 8 + 8 + 8
    value_at = key_at + len(_FIRST_KEY) + 4 + 8
    if head[:4] != b"GGUF" or head[key_at : key_at + len(_FIRST_KEY)] != _FIRST_KEY:
        return None
    length = int.from_bytes(head[value_at - 8 : value_at], "little")
    return head[value_at : value_at + length].decode("utf-8", "replace")
