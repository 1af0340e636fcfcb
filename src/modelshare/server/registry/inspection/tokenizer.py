"""The tokenizer's files: whether they are whole, whether they hold a chat template, how large the vocabulary is."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelshare.server.registry.inspection.json_file import read_object
from modelshare.server.registry.inspection.reader import RangeReader, head
from modelshare.server.registry.refused import Refused, shown

# The largest known, Gemma 3's, has 33 MB and 1.3 million values; a value costs up to 100 bytes of memory.
_MAX_TOKENIZER_BYTES = 128 << 20
_MAX_VALUES = 4_000_000


@dataclass(frozen=True, slots=True)
class Tokenizer:
    has_chat_template: bool
    vocabulary_size: int | None


def read_tokenizer(folder: str, files: Mapping[str, RangeReader]) -> Tokenizer:
    """What the tokenizer files in `folder` ('' is the root) state; raises `Refused` for invalid JSON."""

    def settings(name: str) -> Mapping[str, Any]:
        path = posixpath.join(folder, name)
        return read_object(path, files[path]) if path in files else {}

    template_file = posixpath.join(folder, "chat_template.jinja")
    has_template = (template_file in files and files[template_file].size > 0) or any(
        settings(name).get("chat_template") for name in ("tokenizer_config.json", "chat_template.json")
    )
    path = posixpath.join(folder, "tokenizer.json")
    return Tokenizer(has_template, _vocabulary_size(path, files[path]) if path in files else None)


class _Model(msgspec.Struct):
    # A mapping from token to id (BPE, WordPiece, WordLevel) or a list of [token, score] (Unigram)
    vocab: dict[str, msgspec.Raw] | list[msgspec.Raw] | None = None


class _AddedToken(msgspec.Struct):
    content: str = ""


class _TokenizerFile(msgspec.Struct):
    """The part of tokenizer.json that counts; the rest, merges above all, is checked but never held."""

    model: _Model
    added_tokens: list[_AddedToken] | None = None


def _vocabulary_size(name: str, reader: RangeReader) -> int:
    if reader.size > _MAX_TOKENIZER_BYTES:
        raise Refused(
            f"{shown(name)} is larger than {_MAX_TOKENIZER_BYTES >> 20} MiB; push the model with a smaller one."
        )
    data = head(reader, reader.size)
    if data.count(b",") > _MAX_VALUES:
        raise Refused(f"{shown(name)} holds more than {_MAX_VALUES:,} values; push the model with a smaller one.")
    try:
        tokenizer = msgspec.json.decode(data, type=_TokenizerFile)
    except (ValueError, RecursionError) as error:
        raise Refused(
            f"{shown(name)} is not a valid tokenizer ({shown(str(error))}); save it again and push."
        ) from error
    vocabulary = tokenizer.model.vocab or ()
    known = vocabulary if isinstance(vocabulary, dict) else {}
    # A Unigram vocabulary holds its special tokens already; the others may have them added on top.
    added = {token.content for token in tokenizer.added_tokens or ()} if isinstance(vocabulary, dict) else set()
    return len(vocabulary) + len(added - known.keys())
