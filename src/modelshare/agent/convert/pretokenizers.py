"""Finds the llama.cpp pre-tokenizer that is equivalent to a tokenizer.json. Pure.

Names and regular expressions: `llm_tokenizer_bpe` in
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from collections.abc import Iterator
from typing import Any, Final

from modelshare.agent.convert.values import Json

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4: Final = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2: Final = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST

_BY_EXPRESSION: Final = {
    # regular expression, and whether a word in the vocabulary is kept whole
    (_GPT4, True): "llama-bpe",
    (_GPT4, False): "smaug-bpe",
    (_QWEN2, False): "qwen2",
}


def byte_level_name(tokenizer: Json) -> str | None:
    """`tokenizer.ggml.pre` of a byte-level BPE; None if it is not one, or an unknown one."""
    steps = list(_steps(tokenizer.get("pre_tokenizer")))
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    match steps[:-1]:
        case []:
            return "gpt-2" if steps[-1].get("use_regex", True) else None
        case [{"type": "Digits", "individual_digits": True}]:
            return "smollm" if steps[-1].get("use_regex", True) else None
        case [{"type": "Split", "pattern": {"Regex": str(expression)}, "behavior": "Isolated", "invert": False}]:
            whole = bool(tokenizer["model"].get("ignore_merges"))
            return _BY_EXPRESSION.get((expression, whole)) if not steps[-1].get("use_regex", True) else None
    return None


def adds_space_prefix(tokenizer: Json) -> bool | None:
    """Whether a SentencePiece-like BPE (Llama 1 and 2, Mistral) puts a space before the text. None if it is not one."""
    if not tokenizer["model"].get("byte_fallback"):
        return None
    match list(_steps(tokenizer.get("pre_tokenizer"))):
        case [{"type": "Metaspace", "replacement": "▁", **options}]:
            return options.get("prepend_scheme", "always") != "never" and bool(options.get("add_prefix_space", True))
        case [{"type": "Split", "pattern": {"String": " "}}] | []:
            pass
        case _:
            return None
    match list(_steps(tokenizer.get("normalizer"))):
        case [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]:
            return True
        case [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]:
            return False
    return None


def _steps(step: Any) -> Iterator[Json]:
    """The steps in order. An invalid step is returned as an empty one, which matches no known step."""
    if step is None:
        return
    if not isinstance(step, dict):
        yield {}
    elif step.get("type") == "Sequence":
        inner = step.get("pretokenizers", step.get("normalizers", ()))
        for one in inner if isinstance(inner, list) else [inner]:
            yield from _steps(one)
    else:
        yield step
