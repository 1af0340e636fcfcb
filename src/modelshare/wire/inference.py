"""What an inference request asks for, as far as server and agent have to know it to count, limit and serve it fairly.

Both read a request's body with `read`, so that they cannot disagree on it. Fields that are not named here pass by
unread; which of them an engine takes is the agent's to say.
"""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from modelshare.wire.json_text import flaw

MAX_CHOICES: Final = 128
"""Of `n`, as OpenAI's API has it."""
_Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
_Count = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
_FIELD: Final = re.compile(r" - at `\$\.(\w+)")


class BadInferenceRequest(Exception):
    """The body is no request for this route; the text is for the client, `param` the field at fault if it is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InferenceRequest(msgspec.Struct, frozen=True):
    """One request, in numbers."""

    stream: bool
    prompts: int
    """Texts to complete or to embed; 1 for a chat."""
    choices: int
    """Answers to each prompt that an engine generates, whether or not all of them are returned (`best_of`)."""
    max_tokens: int | None
    """Most tokens of one answer, if the client set a limit."""

    @property
    def sequences(self) -> int:
        """What the engine works on: each prompt as often as it is answered."""
        return self.prompts * self.choices


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: _Choices | None = None
    best_of: _Choices | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_decode: Final = msgspec.json.Decoder(_Body).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read(route: str, body: bytes) -> InferenceRequest:
    """Reads a request's body. Raises BadInferenceRequest, with words for the client."""
    try:
        fields = _decode(body)
        if not body.isascii():
            body.decode()  # fields that are passed by unread as well
        prompts = 1 if route == "chat/completions" else _count(fields, "input" if route == "embeddings" else "prompt")
    except msgspec.ValidationError as error:
        named = _FIELD.search(str(error))
        what = str(error).partition(" - at ")[0]
        if named is None:
            raise BadInferenceRequest("The request's body must be a JSON object.") from error
        raise BadInferenceRequest(f"`{named[1]}` is wrong: {what}.", named[1]) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInferenceRequest(flaw(body) or f"The request's body must be a JSON object: {error}.") from error
    except RecursionError as error:
        raise BadInferenceRequest("The request's body is nested too deeply.") from error
    limits = [limit for limit in (fields.max_tokens, fields.max_completion_tokens) if limit is not None]
    return InferenceRequest(
        stream=bool(fields.stream),
        prompts=prompts,
        choices=max(fields.n or 1, fields.best_of or 1),
        max_tokens=min(limits, default=None),
    )


def _count(fields: _Body, name: Literal["prompt", "input"]) -> int:
    """How many texts the field holds: a text, a list of texts, a list of tokens, or a list of such lists."""
    value = bytes(getattr(fields, name)).strip()
    if value.startswith(b'"'):
        return 1
    items = [bytes(item).strip()[:1] for item in _decode_list(value)] if value.startswith(b"[") else []
    if items and all(item.isdigit() for item in items):
        return 1
    if items and all(item in {b'"', b"["} for item in items):
        return len(items)
    raise BadInferenceRequest(f"`{name}` must be a text, a list of texts, or tokens.", name)
