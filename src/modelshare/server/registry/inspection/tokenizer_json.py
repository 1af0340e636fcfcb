"""Checks tokenizer.json like the `tokenizers` library when it loads one.

The library itself needs many times the file's size in memory, and the server would need it for nothing else. For the
differences see docs/decisions/0024-checks-of-readers.md.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from modelshare.server.registry.inspection.reader import RangeReader, check_no_pointer, head
from modelshare.server.registry.refused import ModelRejectedError, printable

# The largest known, Gemma 3's, has 33 MB and 1.3 million values; a value costs up to 100 bytes of memory.
_MAX_BYTES = 128 << 20
_MAX_VALUES = 4_000_000
_MAX_SEQUENCES = 100  # of a part in a part

_Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Size = Annotated[int, msgspec.Meta(ge=0)]
_Vocabulary = dict[str, _Id]


class _AddedToken(msgspec.Struct):
    id: _Id
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class _Truncation(msgspec.Struct):
    max_length: _Size
    strategy: Literal["LongestFirst", "OnlyFirst", "OnlySecond"]
    stride: _Size
    direction: Literal["Left", "Right"] = "Right"


class _Padding(msgspec.Struct):
    strategy: Literal["BatchLongest"] | dict[Literal["Fixed"], _Size]
    direction: Literal["Left", "Right"]
    pad_id: _Id
    pad_type_id: _Id
    pad_token: str
    pad_to_multiple_of: _Size | None = None


class _Bpe(msgspec.Struct):
    vocab: _Vocabulary
    merges: list[str | list[str]]
    dropout: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None


class _WordPiece(msgspec.Struct):
    vocab: _Vocabulary
    unk_token: str
    continuing_subword_prefix: str
    max_input_chars_per_word: _Size


class _WordLevel(msgspec.Struct):
    vocab: _Vocabulary
    unk_token: str


class _Unigram(msgspec.Struct):
    vocab: list[tuple[str, float]]
    unk_id: _Size | None = None
    byte_fallback: bool = False


_Model = _Bpe | _WordPiece | _WordLevel | _Unigram
_MODELS: Final[Mapping[str, type[_Model]]] = {  # in the order in which the library tries them where no type is given
    "BPE": _Bpe,
    "WordPiece": _WordPiece,
    "WordLevel": _WordLevel,
    "Unigram": _Unigram,
}


class _Kind(msgspec.Struct):
    type: str | msgspec.UnsetType = msgspec.UNSET


class _File(msgspec.Struct, forbid_unknown_fields=True):
    model: msgspec.Raw
    added_tokens: list[_AddedToken] = []
    version: Literal["1.0"] = "1.0"
    truncation: _Truncation | None = None
    padding: _Padding | None = None
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


# The key under which a Sequence holds its members, and the other types
_PARTS: Final = {
    "normalizer": (
        "normalizers",
        re.compile(
            "BertNormalizer|ByteLevel|Lowercase|NFK?[CD]|Nmt|Precompiled|Prepend|Replace|Strip|StripAccents",
        ),
    ),
    "pre_tokenizer": (
        "pretokenizers",
        re.compile(
            "BertPreTokenizer|ByteLevel|CharDelimiterSplit|Digits|FixedLength|Metaspace|Punctuation|Split"
            "|UnicodeScripts|Whitespace|WhitespaceSplit"
        ),
    ),
    "post_processor": ("processors", re.compile("BertProcessing|ByteLevel|RobertaProcessing|TemplateProcessing")),
    "decoder": (
        "decoders",
        re.compile("BPEDecoder|ByteFallback|ByteLevel|CTC|Fuse|Metaspace|Replace|Strip|WordPiece"),
    ),
}


class _UnfitError(ValueError):
    """The text is shown."""


def vocabulary_size(name: str, reader: RangeReader) -> int:
    """The number of tokens. Raises ModelRejectedError for a file that the library would not load."""
    if reader.size > _MAX_BYTES:
        raise ModelRejectedError(
            f"{printable(name)} is larger than {_MAX_BYTES >> 20} MiB; push the model with a smaller one."
        )
    check_no_pointer(name, reader)
    data = head(reader, reader.size)
    if data.count(b",") > _MAX_VALUES:
        raise ModelRejectedError(
            f"{printable(name)} contains more than {_MAX_VALUES:,} values; push the model with a smaller one."
        )
    try:
        return _size(data)
    except (ValueError, RecursionError) as error:
        raise ModelRejectedError(
            f"{printable(name)} is not a valid tokenizer ({printable(str(error))}); save it again and push."
        ) from error


def _size(data: bytes) -> int:
    file = msgspec.json.decode(data, type=_File)
    for part, (members, kinds) in _PARTS.items():
        _check_part(part, getattr(file, part), members, kinds)
    model = _model(file.model)
    if isinstance(model, _Unigram):  # its vocabulary includes its special tokens
        _check_unigram(model)
        return len(model.vocab)
    if isinstance(model, _Bpe):
        _check_merges(model)
    return len(model.vocab) + len({token.content for token in file.added_tokens} - model.vocab.keys())


def _model(raw: msgspec.Raw) -> _Model:
    kind = msgspec.json.decode(raw, type=_Kind).type
    if kind is not msgspec.UNSET:
        if kind not in _MODELS:
            raise _UnfitError(f"its model is of the unknown type {kind}")
        return msgspec.json.decode(raw, type=_MODELS[kind])
    for model in _MODELS.values():
        try:
            return msgspec.json.decode(raw, type=model)
        except msgspec.ValidationError:
            continue
    raise _UnfitError("its model has neither a type nor the fields of one")


def _check_unigram(model: _Unigram) -> None:
    if model.unk_id is not None and model.unk_id >= len(model.vocab):
        raise _UnfitError("the unknown token is not in its vocabulary")


def _check_merges(model: _Bpe) -> None:
    """Checks that both halves of each merge, and the result, are in the vocabulary."""
    prefix = len((model.continuing_subword_prefix or "").encode())
    for left, right in _pairs(model.merges):
        if prefix > len(right.encode()):
            raise _UnfitError(f"a merge has the token {right}, shorter than the prefix of its second halves")
        rest = right.encode()[prefix:].decode(errors="replace")
        for token in (left, right, left + rest):
            if token not in model.vocab:
                raise _UnfitError(f"a merge has the token {token}, which its vocabulary lacks")


def _pairs(merges: list[str | list[str]]) -> Iterator[tuple[str, str]]:
    """Merges as pairs or, in the older form, as texts of two words; not mixed."""
    is_older = bool(merges) and isinstance(merges[0], str)
    for merge in merges:
        if isinstance(merge, str) != is_older:
            raise _UnfitError("its merges are partly pairs and partly strings")
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [left, right]:
                yield left, right
            case _:
                raise _UnfitError("a merge is not a pair of tokens")


def _check_part(part: str, value: object, members: str, kinds: re.Pattern[str]) -> None:
    """Checks that the types in it are known. A part without a type has an older form, which is not checked."""
    left = [value]
    for _ in range(_MAX_SEQUENCES):
        if not left:
            return
        item = left.pop()
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(item, dict) and kind == "Sequence":
            inner = item.get(members)
            if not isinstance(inner, list):
                raise _UnfitError(f"its {part} is a Sequence without {members}")
            left.extend(inner)
        elif kind is not None and not kinds.fullmatch(str(kind)):
            raise _UnfitError(f"its {part} is of the unknown type {kind}")
    raise _UnfitError(f"its {part} has too many parts")
