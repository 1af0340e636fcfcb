"""Reads a tokenizer's files: whether loaders accept them, the size of the vocabulary, and any chat template."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelshare.server.registry.inspection.json_file import read_object
from modelshare.server.registry.inspection.reader import RangeReader, head
from modelshare.server.registry.inspection.tokenizer_json import vocabulary_size
from modelshare.server.registry.refused import ModelRejectedError, printable

_FILE = "tokenizer.json"
_TEMPLATE = "chat_template.jinja"
_MAX_TEMPLATE_BYTES = 1 << 20
# Other files that loaders read; each contains an object.
_SETTINGS = (
    "tokenizer_config.json",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
# Files from which a tokenizer is built if there is no tokenizer.json
_VOCABULARIES = ("vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    has_chat_template: bool
    vocabulary_size: int | None


def read_tokenizer(folder: str, files: Mapping[str, RangeReader]) -> Tokenizer:
    """Reads the tokenizer files in `folder` ('' is the root). Raises ModelRejectedError for one that no loader
    accepts."""
    here = {name: posixpath.join(folder, name) for name in (_FILE, _TEMPLATE, *_SETTINGS, *_VOCABULARIES)}
    paths = {name: path for name, path in here.items() if path in files}
    settings = {name: read_object(path, files[path]) for name, path in paths.items() if name in _SETTINGS}
    template = _template(paths[_TEMPLATE], files[paths[_TEMPLATE]]) if _TEMPLATE in paths else ""
    if _FILE in paths:
        size = vocabulary_size(paths[_FILE], files[paths[_FILE]])
    else:
        size = None
        _check_not_empty({path: files[path] for name, path in paths.items() if name in _VOCABULARIES})
    return Tokenizer(bool(template) or any(map(_has_template, settings.values())), size)


def _has_template(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("chat_template"))


def _template(path: str, reader: RangeReader) -> str:
    if reader.size > _MAX_TEMPLATE_BYTES:
        raise ModelRejectedError(
            f"{printable(path)} is larger than {_MAX_TEMPLATE_BYTES >> 20} MiB; push the model with a shorter one."
        )
    try:
        return head(reader, reader.size).decode()
    except UnicodeDecodeError:
        raise ModelRejectedError(
            f"{printable(path)} is not UTF-8, which loaders expect; save it again and push."
        ) from None


def _check_not_empty(vocabularies: Mapping[str, RangeReader]) -> None:
    for path, reader in vocabularies.items():
        if not reader.size:
            raise ModelRejectedError(
                f"{printable(path)} is empty, so no loader can build the tokenizer; save it again and push."
            )
