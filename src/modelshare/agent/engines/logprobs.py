"""Converts log probabilities of completions to OpenAI's format. Pure.

llama.cpp returns them in the format of chats.
"""

from typing import Any, Final

import msgspec

from modelshare.agent.engines.parameters import Fields


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _Token(_Alternative):
    top_logprobs: list[_Alternative] = []


class _OfChat(msgspec.Struct):
    content: list[_Token]


_encode: Final = msgspec.json.encode
_decode_choices: Final = msgspec.json.Decoder(list[Fields]).decode
_decode_chat: Final = msgspec.json.Decoder(_OfChat | None).decode


def with_logprobs(choices: msgspec.Raw, wanted: int, at: int = 0) -> tuple[msgspec.Raw, int]:
    """The converted choices, and the offset at which their text ends; `at` is where it begins.

    `wanted`: the number of alternatives per token. Raises msgspec.DecodeError.
    """
    found = _decode_choices(choices)
    for choice in found:
        said = _decode_chat(choice.get("logprobs", b"null"))
        if said is not None:
            told = _of_completion(said.content, at, alternatives=wanted > 0)
            choice["logprobs"] = msgspec.Raw(_encode(told))
            at += sum(len(token.token) for token in said.content)
    return msgspec.Raw(_encode(found)), at


def _of_completion(tokens: list[_Token], at: int, *, alternatives: bool) -> dict[str, Any]:
    offsets: list[int] = []
    for token in tokens:
        offsets.append(at)
        at += len(token.token)
    tops = [{other.token: other.logprob for other in token.top_logprobs} for token in tokens]
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": tops if alternatives else None,
        "text_offset": offsets,
    }
