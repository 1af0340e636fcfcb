"""Writes tokenizers in llama.cpp's format."""

from collections.abc import Mapping
from typing import Any, Final

import gguf
from tokenizers import Tokenizer

from modelshare.agent.convert.numbers import Numbers
from modelshare.agent.convert.pretokenizers import adds_space_prefix, byte_level_name
from modelshare.agent.convert.source import TensorSource
from modelshare.agent.convert.values import ConversionError, Json, printable

_UNREACHABLE: Final = -1e6
"""Score of a token that is not the result of any merge."""


def write_vocabulary(writer: gguf.GGUFWriter, source: TensorSource, numbers: Numbers) -> None:
    """Writes tokens, merges or scores, special tokens and the chat template. Raises ConversionError."""
    tokenizer = _tokenizer(source)
    ids: dict[str, int] = tokenizer.get_vocab()
    if not ids:
        raise ConversionError("its tokenizer has no tokens.")
    tokens = _in_order(ids, numbers.vocabulary)
    if source.is_bert:
        writer.add_token_type_count(numbers.token_types)
        _write_word_piece(writer, source, ids, tokens)
        return
    if pre := byte_level_name(source.tokenizer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(_types(source.tokenizer, tokens))
        writer.add_token_merges([" ".join(pair) for pair in _merges(source.tokenizer)])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(_scores(source.tokenizer, tokens))
        writer.add_token_types(_types(source.tokenizer, tokens))
        writer.add_add_space_prefix(bool(adds_space_prefix(source.tokenizer)))
    _write_special_tokens(writer, source, ids, tokenizer)
    if template := source.chat_template:
        writer.add_chat_template(template)


def _tokenizer(source: TensorSource) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(source.folder / "tokenizer.json"))
    except Exception as error:  # the library raises no more specific exception
        raise ConversionError("its tokenizer.json cannot be read; save the model again.") from error


def _in_order(ids: Mapping[str, int], size: int) -> list[str]:
    """The tokens by id. Unused rows of padded embeddings get names that do not occur in texts."""
    if max(ids.values()) >= size:
        raise ConversionError("The tokenizer has more tokens than the model has embeddings.")
    tokens = [f"[PAD{index}]" for index in range(size)]
    for token, index in ids.items():
        tokens[index] = token
    return tokens


def _types(tokenizer: Json, tokens: list[str]) -> list[gguf.TokenType]:
    model = tokenizer["model"]
    types = dict.fromkeys(model["vocab"], gguf.TokenType.NORMAL)
    if model.get("byte_fallback"):
        types |= {f"<0x{byte:02X}>": gguf.TokenType.BYTE for byte in range(256)}
    if unknown := model.get("unk_token"):
        types[unknown] = gguf.TokenType.UNKNOWN
    for added in tokenizer.get("added_tokens", ()):
        if added["content"] != unknown:
            special = added.get("special", False)
            types[added["content"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    return [types.get(token, gguf.TokenType.UNUSED) for token in tokens]


def _merges(tokenizer: Json) -> list[list[str]]:
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in tokenizer["model"]["merges"]]


def _scores(tokenizer: Json, tokens: list[str]) -> list[float]:
    """Scores with the same effect as the merges:

    SentencePiece merges the pair with the best score, BPE the earliest one.
    """
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(_merges(tokenizer)):
        ranks.setdefault("".join(pair), rank)
    return [float(-ranks[token]) if token in ranks else _UNREACHABLE for token in tokens]


def _write_special_tokens(
    writer: gguf.GGUFWriter, source: TensorSource, ids: Mapping[str, int], tokenizer: Tokenizer
) -> None:
    bos = _special_id(source, "bos_token", ids)
    eos = _special_id(source, "eos_token", ids)
    pad = _special_id(source, "pad_token", ids)
    if bos is not None:
        writer.add_bos_token_id(bos)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if pad is not None:
        writer.add_pad_token_id(pad)
    if (unknown := source.tokenizer["model"].get("unk_token")) in ids:
        writer.add_unk_token_id(ids[unknown])
    ends = _as_list(source.generation_config.get("eos_token_id"))
    if other := next((end for end in ends if end != eos), None):
        writer.add_eot_token_id(other)
    encoded = tokenizer.encode("a").ids
    writer.add_add_bos_token(encoded[:1] == [bos])
    writer.add_add_eos_token(encoded[-1:] == [eos])


def _special_id(source: TensorSource, role: str, ids: Mapping[str, int]) -> int | None:
    if (token := source.special_token(role)) in ids:
        return ids[token] if token else None
    return next(iter(_as_list(source.config.get(f"{role}_id"))), None)


def _as_list(given: Any) -> list[int]:
    if given is None:
        return []
    numbers = given if isinstance(given, list) else [given]
    if not all(type(token) is int and token >= 0 for token in numbers):
        raise ConversionError(f"its special token is {printable(given)}, but must be a token number.")
    return numbers


def _write_word_piece(writer: gguf.GGUFWriter, source: TensorSource, ids: Mapping[str, int], tokens: list[str]) -> None:
    special = {added["content"] for added in source.tokenizer.get("added_tokens", ()) if added.get("special")}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token if token in special else _as_phantom_space(token) for token in tokens])
    writer.add_token_types(_types(source.tokenizer, tokens))

    def special_id(role: str, usual: str) -> int:
        token = source.special_token(role) or usual
        if token not in ids:
            raise ConversionError(f"its tokenizer lacks the token {printable(token)}, which llama.cpp's BERT needs.")
        return ids[token]

    writer.add_unk_token_id(special_id("unk_token", "[UNK]"))
    writer.add_pad_token_id(special_id("pad_token", "[PAD]"))
    writer.add_bos_token_id(special_id("cls_token", "[CLS]"))
    writer.add_sep_token_id(special_id("sep_token", "[SEP]"))
    writer.add_eos_token_id(special_id("sep_token", "[SEP]"))
    writer.add_mask_token_id(special_id("mask_token", "[MASK]"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _as_phantom_space(token: str) -> str:
    """llama.cpp marks the beginning of a word, WordPiece its continuation."""
    return token[2:] if token.startswith("##") else "▁" + token
