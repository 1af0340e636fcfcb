"""Which of llama.cpp's tokenizers cuts text as a tokenizer.json does. Pure.

Names and expressions: `llm_tokenizer_bpe` in https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from collections.abc import Iterator
from typing import Any, Final

from modelshare.agent.convert.values import Json

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4: Final = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2: Final = _CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST

_BY_EXPRESSION: Final = {
    # expression, and whether a word that is in the vocabulary is taken whole
    (_GPT4, True): "llama-bpe",
    (_GPT4, False): "smaug-bpe",
    (_QWEN2, False): "qwen2",
}


def byte_level_name(tokenizer: Json) -> str | None:
    """`tokenizer.ggml.pre` of a byte-level BPE; None when it is none, or none that is known."""
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
    """Of a BPE in SentencePiece's manner (Llama 1 and 2, Mistral): is a space put before the text? None: it is none."""
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
    """One after the other; what is no step shows as one that nobody knows."""
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
