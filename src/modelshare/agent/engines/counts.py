"""Counts the tokens of an answer: the engine's counts if they are plausible, otherwise estimates. Pure."""

from collections.abc import Collection, Iterable
from typing import Any, Final, Protocol

import msgspec

from modelshare.wire.inference import InferenceRequest, most_tokens, tokens_in

Fields = dict[str, msgspec.Raw]
DETAILS: Final = ("prompt_tokens_details", "completion_tokens_details")


class TokenUsage(msgspec.Struct, frozen=True):
    """Token counts of one answer, or of several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """At least one of the counts is an estimate."""


class _EngineUsage(msgspec.Struct, frozen=True):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    prompt_tokens_details: msgspec.Raw = msgspec.Raw()
    completion_tokens_details: msgspec.Raw = msgspec.Raw()


_NOTHING: Final = _EngineUsage()
_decode_usage: Final = msgspec.json.Decoder(_EngineUsage).decode


class Counter(Protocol):
    """Takes what is generated."""

    def generated(self, texts: Iterable[str]) -> None:
        """Adds one piece of the answer: a text for each choice in it."""

    def set_reported(self, usage: msgspec.Raw) -> None:
        """Stores the engine's usage; the last one counts."""


class Tally:
    """Counts the tokens of one answer as it arrives. `usage` is available at any time, even for a partial answer."""

    def __init__(
        self,
        asked: InferenceRequest,
        body_bytes: int,
        prompt_bytes: int,
        context: int | None,
        *,
        counts_all: bool,
        details: Collection[str] = DETAILS,
    ) -> None:
        """`context` is the model's context length in tokens, if known.

        `counts_all`: the engine's count includes all sequences of a
        request. `details`: the parts of its usage that a client may see.
        """
        self.prompt_bytes: Final = prompt_bytes
        self.began = False
        """Whether anything was generated."""
        self._most_prompt, self._most_completion = most_tokens(asked, body_bytes, context)
        self._counts_all = counts_all or asked.sequences == 1
        self._details = details
        self._reported: msgspec.Raw | None = None
        self._pieces = 0
        self._bytes = 0
        self._usage: TokenUsage | None = None
        self._read = _NOTHING
        """What was reported, once `usage` was computed."""

    def generated(self, texts: Iterable[str]) -> None:
        """Adds one piece of the answer: a text for each choice in it."""
        self._usage = None
        for text in texts:
            if text:
                self.began = True
                self._pieces += 1
                self._bytes += len(text.encode("utf-8", "surrogatepass"))

    def set_reported(self, usage: msgspec.Raw) -> None:
        """Stores the engine's usage; the last one counts."""
        self._reported, self._usage = usage, None

    @property
    def usage(self) -> TokenUsage:
        """The engine's counts; a missing or implausible one is replaced by an estimate."""
        if self._usage is not None:
            return self._usage
        reported = self._read = _read(self._reported)
        prompt = _plausible(reported.prompt_tokens, self._most_prompt, least=1 if self.prompt_bytes else 0)
        is_estimate = prompt is None
        if prompt is None:
            prompt = min(tokens_in(self.prompt_bytes), self._most_prompt)
        completion = _plausible(reported.completion_tokens, self._most_completion, least=1 if self._pieces else 0)
        if completion is None or not self._counts_all:
            # An engine streams at least one token with each piece of text.
            estimate = min(max(self._pieces, tokens_in(self._bytes)), self._most_completion)
            if completion is None or completion < estimate:
                completion = estimate
                is_estimate = is_estimate or self._most_completion > 0
        self._usage = TokenUsage(prompt, completion, is_estimate)
        return self._usage

    def for_client(self, combined: TokenUsage | None = None) -> msgspec.Raw:
        """OpenAI's `usage` with these counts and the engine's details.

        `combined`: the sum of several answers, including this one, to be used instead, without details.
        """
        usage = combined or self.usage
        fields: dict[str, Any] = {"prompt_tokens": usage.prompt_tokens}
        if self._most_completion:
            fields["completion_tokens"] = usage.completion_tokens
        fields["total_tokens"] = usage.prompt_tokens + usage.completion_tokens
        if usage.estimated:
            fields["estimated"] = True
        elif combined is None:
            for name in self._details:
                details: msgspec.Raw = getattr(self._read, name)
                if bytes(details).lstrip()[:1] == b"{":
                    fields[name] = details
        return msgspec.Raw(msgspec.json.encode(fields))


def total(usages: Iterable[TokenUsage]) -> TokenUsage:
    """The sum; an estimate if any of them is one."""
    combined = list(usages)
    return TokenUsage(
        sum(one.prompt_tokens for one in combined),
        sum(one.completion_tokens for one in combined),
        any(one.estimated for one in combined),
    )


def _read(usage: msgspec.Raw | None) -> _EngineUsage:
    try:
        return _NOTHING if usage is None else _decode_usage(usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NOTHING


def _plausible(value: Any, limit: int, *, least: int) -> int | None:
    """The count if it is plausible, else None. Some engines send it as a string or with a decimal point."""
    if type(value) is int:
        return value if least <= value <= limit else None
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(limit)):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and least <= value <= limit else None
