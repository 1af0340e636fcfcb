"""What an inference request asks for, as far as server and agent have to know it to count, limit and serve it fairly.

Both read a request's body with `read`, so that they cannot disagree on it. Fields that are not named here pass by
unread; which of them an engine takes is the agent's to say.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from modelshare.wire.json_text import flaw

MAX_CHOICES: Final = 128
"""Of `n`, as OpenAI's API has it."""
EMBEDDED_TOGETHER: Final = 8
"""Texts to embed that are as much work as one sequence, and go to an engine as one: each is computed in one step."""
MAX_TOKENS: Final = 1 << 24
"""Of one answer: more than any model's context holds."""
_MAX_TOGETHER: Final = (1 << 31) - 1
"""Of one request, as frames of the link have it."""
_TEMPLATE_TOKENS: Final = 4096
"""What a chat template may add to a prompt: the model's own instructions, how tools are called, marks of roles."""
_BYTES_PER_TOKEN: Final = 4
"""About right for English text."""
_Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
_Count = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
_AT: Final = re.compile(r" - at `\$\.(\w+)")
_OF_THE_BODY: Final = re.compile(r"(missing required|unknown) field `([^`]{1,100})")
_Fields = TypeVar("_Fields")


class BadInferenceRequestError(Exception):
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
    generates: bool = True
    """There are answers in tokens; else embeddings."""

    @property
    def sequences(self) -> int:
        """What the engine works on: each prompt as often as it is answered."""
        return self.prompts * self.choices

    @property
    def turns(self) -> int:
        """How often it is the request's turn in an engine: once a sequence, or a few texts to embed."""
        return self.sequences if self.generates else -(-self.prompts // EMBEDDED_TOGETHER)


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
    fields = decoded(_decode, body)
    if not body.isascii():
        decoded(bytes.decode, body)  # fields that are passed by unread as well
    name: Literal["prompt", "input"] = "input" if route == "embeddings" else "prompt"
    prompts = 1 if route == "chat/completions" else decoded(lambda value: _count(value, name), getattr(fields, name))
    limits = [limit for limit in (fields.max_tokens, fields.max_completion_tokens) if limit is not None]
    return InferenceRequest(
        stream=bool(fields.stream),
        prompts=prompts,
        choices=max(fields.n or 1, fields.best_of or 1),
        max_tokens=min(limits, default=None),
        generates=route != "embeddings",
    )


def most_tokens(asked: InferenceRequest, body_bytes: int, context: int | None) -> tuple[int, int]:
    """The most tokens that prompts and answers can have: no count beyond is to be believed.

    `context`: tokens that a prompt and its answer may have together, where that is known.
    """
    of_one = MAX_TOKENS if context is None else min(context, MAX_TOKENS)
    prompt = min(body_bytes + asked.prompts * _TEMPLATE_TOKENS, asked.prompts * of_one, _MAX_TOGETHER)
    if not asked.generates:
        return prompt, 0
    completion = asked.sequences * min(of_one, MAX_TOKENS if asked.max_tokens is None else asked.max_tokens)
    return prompt, min(completion, _MAX_TOGETHER)


def tokens_in(text_bytes: int) -> int:
    """An estimate for a text of so many bytes."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def decoded(decode: Callable[[bytes], _Fields], body: bytes) -> _Fields:
    """Decodes a request's body, or part of it. Raises BadInferenceRequest, which names the field at fault."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInferenceRequestError(flaw(body) or f"The request body must be a JSON object: {error}.") from error
    except RecursionError as error:
        raise BadInferenceRequestError("The request body is nested too deeply. Send a flatter JSON object.") from error


def _refusal(text: str) -> BadInferenceRequestError:
    if at := _AT.search(text):
        return BadInferenceRequestError(f"Invalid `{at[1]}`: {text.partition(' - at ')[0]}.", at[1])
    if named := _OF_THE_BODY.search(text):
        is_unknown = named[1] == "unknown"
        what = "is not a parameter of this route; remove it" if is_unknown else "is missing"
        return BadInferenceRequestError(f"`{named[2]}` {what}.", named[2])
    return BadInferenceRequestError("The request body must be a JSON object.")


def _count(field: bytes, name: str) -> int:
    """How many texts the field holds: a text, a list of texts, a list of tokens, or a list of such lists."""
    value = bytes(field).strip()
    if value.startswith(b'"'):
        return 1
    items = [bytes(item).strip()[:1] for item in _decode_list(value)] if value.startswith(b"[") else []
    if items and all(item.isdigit() for item in items):
        return 1
    if items and all(item in {b'"', b"["} for item in items):
        return len(items)
    raise BadInferenceRequestError(f"`{name}` must be a string, an array of strings, or tokens.", name)
