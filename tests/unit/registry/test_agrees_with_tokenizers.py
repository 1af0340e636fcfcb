"""A tokenizer that the `tokenizers` library or Transformers cannot load is refused at the push."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from modelshare.server.registry.inspection import FileReader, inspect
from unit.registry.samples import inspect_bytes, reason_of, safetensors_file

MODEL = {"config.json": b'{"model_type": "llama"}', "model.safetensors": safetensors_file({"a": ("F32", [2])})}
TOKEN = {
    "id": 2,
    "content": "<s>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
WORD_PIECE = {
    "type": "WordPiece",
    "vocab": {"a": 0, "##b": 1},
    "unk_token": "a",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
WORD_LEVEL = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
UNIGRAM = {"type": "Unigram", "vocab": [["a", -1.5], ["b", 0]], "unk_id": 0}


def library_takes(tokenizer: bytes) -> bool:
    try:
        Tokenizer.from_buffer(tokenizer)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the library raises nothing narrower, and its panics are no Exception
        return False
    return True


def taken_here(tokenizer: bytes) -> bool:
    reason = reason_of(MODEL | {"tokenizer.json": tokenizer})
    assert reason is None or reason.startswith("tokenizer.json ")
    return reason is None


def file(model: Mapping[str, Any], **fields: Any) -> bytes:
    return json.dumps({"version": "1.0", "added_tokens": [TOKEN], "model": model} | fields).encode()


def without(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


TAKEN = {
    "BPE": file(BPE),
    "WordPiece": file(WORD_PIECE),
    "WordLevel": file(WORD_LEVEL),
    "Unigram": file(UNIGRAM),
    "BPE without a type": file(without(BPE, "type")),
    "WordPiece without a type": file(without(WORD_PIECE, "type")),
    "merges as texts": file(BPE | {"merges": ["#version: 0.2", "a b"]}),
    "a prefix": file(
        BPE | {"vocab": {"a": 0, "##b": 1, "ab": 2}, "merges": [["a", "##b"]], "continuing_subword_prefix": "##"}
    ),
    "no merges": file(BPE | {"merges": []}),
    "no added tokens": file(BPE, added_tokens=[]),
    "other fields of a model": file(BPE | {"more": 1}),
    "truncation": file(BPE, truncation={"max_length": 9, "strategy": "LongestFirst", "stride": 0}),
    "padding": file(
        BPE,
        padding={
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "a",
            "pad_to_multiple_of": None,
        },
    ),
    "an unknown token without a rank": file(UNIGRAM | {"unk_id": None}),
}

REFUSED = {
    "nothing": b"",
    "a brace": b"{",
    "a list": b"[]",
    "null": b"null",
    "no model": b"{}",
    "a model of nothing": file({}),
    "other fields": file(BPE, more=2),
    "a merge shorter than the prefix": file(BPE | {"continuing_subword_prefix": "##"}),
    "a byte order mark": b"\xef\xbb\xbf" + file(BPE),
    "Latin-1": b'{"model": "\xe9"}',
    "NaN": file(UNIGRAM | {"vocab": [["a", float("nan")]]}),
    "an unknown model": file(BPE | {"type": "Magic"}),
    "a model's type as a number": file(BPE | {"type": 5}),
    "no vocabulary": file(without(BPE, "vocab")),
    "no list of merges": file(without(BPE, "merges")),
    "an id as a text": file(BPE | {"vocab": {"a": "0"}, "merges": []}),
    "an id as a float": file(BPE | {"vocab": {"a": 0.0}, "merges": []}),
    "an id below zero": file(BPE | {"vocab": {"a": -1}, "merges": []}),
    "an id beyond 32 bits": file(BPE | {"vocab": {"a": 2**32}, "merges": []}),
    "a merge of unknown halves": file(BPE | {"merges": [["a", "c"]]}),
    "a merge of an unknown whole": file(BPE | {"merges": [["b", "a"]]}),
    "a merge of three": file(BPE | {"merges": [["a", "b", "ab"]]}),
    "a merge of one word": file(BPE | {"merges": ["ab"]}),
    "merges of both forms": file(BPE | {"merges": ["a b", ["a", "b"]]}),
    "a dropout of 2": file(BPE | {"dropout": 2}),
    "WordPiece without its unknown token": file(without(WORD_PIECE, "unk_token")),
    "WordPiece without its length": file(without(WORD_PIECE, "max_input_chars_per_word")),
    "WordLevel without its unknown token": file(without(WORD_LEVEL, "unk_token")),
    "an unknown token beyond the vocabulary": file(UNIGRAM | {"unk_id": 2}),
    "a vocabulary of one form in a model of another": file(UNIGRAM | {"vocab": {"a": 0}}),
    "a score as a text": file(UNIGRAM | {"vocab": [["a", "0"]]}),
    "an added token without its id": file(BPE, added_tokens=[without(TOKEN, "id")]),
    "an added token without its text": file(BPE, added_tokens=[without(TOKEN, "content")]),
    "an added token without a switch": file(BPE, added_tokens=[without(TOKEN, "lstrip")]),
    "added tokens as an object": file(BPE, added_tokens={}),
    "added tokens of null": file(BPE, added_tokens=None),
    "another version": file(BPE, version="2.0"),
    "a truncation of nothing": file(BPE, truncation={}),
    "a padding of nothing": file(BPE, padding={}),
    "an unknown normalizer": file(BPE, normalizer={"type": "Magic"}),
    "an unknown pre-tokenizer": file(BPE, pre_tokenizer={"type": "Magic"}),
    "an unknown decoder within": file(BPE, decoder={"type": "Sequence", "decoders": [{"type": "Magic"}]}),
    "a sequence of nothing": file(BPE, normalizer={"type": "Sequence"}),
    "a text for a normalizer": file(BPE, normalizer="NFC"),
}


@pytest.mark.parametrize("tokenizer", TAKEN.values(), ids=TAKEN.keys())
def test_taken_by_both(tokenizer: bytes) -> None:
    assert library_takes(tokenizer)
    assert taken_here(tokenizer)


@pytest.mark.parametrize("tokenizer", REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_both(tokenizer: bytes) -> None:
    assert not library_takes(tokenizer)
    assert not taken_here(tokenizer)


@pytest.mark.parametrize("parts", [{"pre_tokenizer": {"type": "Split"}}, {"normalizer": {"lowercase": 1}}])
def test_parts_are_looked_into_by_their_types_only(parts: dict[str, Any]) -> None:
    """The engine tells what is wrong with the fields of one, such as its regular expression."""
    tokenizer = file(BPE, **parts)
    assert not library_takes(tokenizer)
    assert taken_here(tokenizer)


def made(module: Any, plain: str, **with_arguments: tuple[Any, ...]) -> list[Any]:
    parts = dict.fromkeys(plain.split(), ()) | with_arguments
    return [getattr(module, name)(*arguments) for name, arguments in parts.items()]


def test_every_part_that_the_library_makes_is_known() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, "a"))
    plain = "BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Strip StripAccents"
    tokenizer.normalizer = normalizers.Sequence(made(normalizers, plain, Prepend=("x",), Replace=("x", "y")))
    plain = (
        "BertPreTokenizer ByteLevel Digits FixedLength Metaspace Punctuation UnicodeScripts Whitespace WhitespaceSplit"
    )
    splits = made(pre_tokenizers, plain, CharDelimiterSplit=("x",), Split=("x", "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    ends = (("a", 0), ("a", 0))
    steps = made(
        processors, "ByteLevel", BertProcessing=ends, RobertaProcessing=ends, TemplateProcessing=("$A", "$A $B")
    )
    tokenizer.post_processor = processors.Sequence(steps)
    plain = "BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace WordPiece"
    tokenizer.decoder = decoders.Sequence(made(decoders, plain, Replace=("x", "y"), Strip=("x", 0, 0)))
    assert taken_here(tokenizer.to_str().encode())


@pytest.mark.parametrize("model", ["BPE", "WordPiece", "WordLevel", "Unigram"])
def test_tokenizer_that_the_library_trained_and_saved(model: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(getattr(models, model)())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = getattr(trainers, f"{model.replace('BPE', 'Bpe')}Trainer")(special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(["the old river runs through the town"] * 3, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name, data in MODEL.items():
        (tmp_path / name).write_bytes(data)
    facts = inspect({path.name: FileReader(path) for path in tmp_path.iterdir()})
    assert facts.vocabulary_size == tokenizer.get_vocab_size()


VALUES = st.sampled_from([None, 0, 1, -1, 2**32, 0.5, "a", "BPE", "", [], {}, [["a", "b"]], ["a b"], {"a": 1}, True])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A whole tokenizer with one value taken out or replaced."""
    model: Mapping[str, Any] = draw(st.sampled_from([BPE, WORD_PIECE, WORD_LEVEL, UNIGRAM]))
    tokenizer = copy.deepcopy(json.loads(file(model)))
    *above, last = draw(st.sampled_from(places(tokenizer)[1:]))
    holder = tokenizer
    for key in above:
        holder = holder[key]
    if draw(st.booleans()):
        holder[last] = draw(VALUES)
    else:
        del holder[last]
    return json.dumps(tokenizer).encode()


@settings(max_examples=250, deadline=None, derandomize=True)
@given(changed())
def test_verdict_on_changed_files_is_that_of_the_library(tokenizer: bytes) -> None:
    assert taken_here(tokenizer) == library_takes(tokenizer)


SETTINGS = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"]


@pytest.mark.parametrize("name", [*SETTINGS, "chat_template.json"])
@pytest.mark.parametrize("data", [b"", b" ", b"{", b"[]", b"null", b"\xef\xbb\xbf{}", b"\xff", b"{}{}"])
def test_settings_that_loaders_fail_at_are_refused_by_name(name: str, data: bytes) -> None:
    """Also where the chat template comes from a file of its own."""
    reason = reason_of(MODEL | {"chat_template.jinja": b"{{ messages }}", name: data})
    assert reason is not None
    assert reason.startswith(f"{name} is ")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_nothing_are_taken(name: str) -> None:
    assert reason_of(MODEL | {name: b"{}"}) is None


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "vocab.txt", "vocab.json"])
def test_empty_vocabulary_is_refused_where_the_tokenizer_is_built_from_it(name: str) -> None:
    assert f"{name} is empty" in (reason_of(MODEL | {name: b""}) or "")
    assert reason_of(MODEL | {name: b"", "tokenizer.json": TAKEN["BPE"]}) is None


def test_chat_template_is_text() -> None:
    assert inspect_bytes(MODEL | {"chat_template.jinja": "{{ 'é' }}".encode()}).has_chat_template
    assert "chat_template.jinja is not UTF-8" in (reason_of(MODEL | {"chat_template.jinja": b"\xff"}) or "")
