"""The properties of an inference request that server and agent need to count, limit and schedule it.

Both parse the body with `read`, so that they cannot disagree. Fields that are not listed here are passed through; the
agent decides which of them an engine accepts.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from modelshare.wire.json_text import explain_invalid_json

MAX_CHOICES: Final = 128
"""Maximum of `n`, as in OpenAI's API."""
EMBEDDED_TOGETHER: Final = 8
"""Texts to embed that count as one sequence: an engine processes them as one batch, in one step."""
MAX_TOKENS: Final = 1 << 24
"""Upper bound for one answer: larger than any model's context."""
_MAX_TOGETHER: Final = (1 << 31) - 1
"""Upper bound for one request, as in the link's frames."""
_TEMPLATE_TOKENS: Final = 4096
"""Tokens that a chat template may add to a prompt: default instructions, tool descriptions, role markers."""
_BYTES_PER_TOKEN: Final = 4
"""Approximately right for English text."""
_Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
_Count = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
_AT: Final = re.compile(r" - at `\$\.(\w+)")
_OF_THE_BODY: Final = re.compile(r"(missing required|unknown) field `([^`]{1,100})")
_Fields = TypeVar("_Fields")


class BadInferenceRequestError(Exception):
    """The body is not a valid request for this route. The text is shown to the client; `param` is the invalid field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InferenceRequest(msgspec.Struct, frozen=True):
    """The properties of a request that matter for counting and limits."""

    stream: bool
    prompts: int
    """Number of texts to complete or to embed; 1 for a chat."""
    choices: int
    """Answers generated for each prompt, including those that are not returned (`best_of`)."""
    max_tokens: int | None
    """The client's limit for one answer, if it set one."""
    generates: bool = True
    """False for embeddings."""

    @property
    def sequences(self) -> int:
        """Total number of answers to generate: prompts times choices."""
        return self.prompts * self.choices

    @property
    def turns(self) -> int:
        """Number of scheduling turns that the request needs: one per sequence, or one per batch of texts to embed."""
        return self.prompts * self.choices if self.generates else -(-self.prompts // EMBEDDED_TOGETHER)


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
    """Parses a request body. Raises BadInferenceRequestError, with a message for the client."""
    fields = decoded(_decode, body)
    if not body.isascii():
        decoded(bytes.decode, body)  # also checks the fields that are passed through
    name: Literal["prompt", "input"] = "input" if route == "embeddings" else "prompt"
    prompts = 1 if route == "chat/completions" else decoded(lambda value: _count(value, name), getattr(fields, name))
    limit, newer = fields.max_tokens, fields.max_completion_tokens
    if limit is None or (newer is not None and newer < limit):
        limit = newer
    return InferenceRequest(
        stream=bool(fields.stream),
        prompts=prompts,
        choices=max(fields.n or 1, fields.best_of or 1),
        max_tokens=limit,
        generates=route != "embeddings",
    )


def most_tokens(asked: InferenceRequest, body_bytes: int, context: int | None) -> tuple[int, int]:
    """Upper bounds for the prompt tokens and completion tokens of a request; higher counts are not plausible.

    `context`: the model's context length in tokens (prompt and answer together), if known.
    """
    per_answer = MAX_TOKENS if context is None or context > MAX_TOKENS else context
    prompt = min(body_bytes + asked.prompts * _TEMPLATE_TOKENS, asked.prompts * per_answer, _MAX_TOGETHER)
    if not asked.generates:
        return prompt, 0
    completion = asked.sequences * min(per_answer, MAX_TOKENS if asked.max_tokens is None else asked.max_tokens)
    return prompt, min(completion, _MAX_TOGETHER)


def tokens_in(text_bytes: int) -> int:
    """Estimates the tokens in a text of `text_bytes` bytes."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def decoded(decode: Callable[[bytes], _Fields], body: bytes) -> _Fields:
    """Decodes (part of) a request body. Raises BadInferenceRequestError, which names the invalid field."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInferenceRequestError(
            explain_invalid_json(body) or f"The request body must be a JSON object: {error}."
        ) from error
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
    """Number of texts in the field: a text, a list of texts, a list of tokens, or a list of lists of tokens."""
    value = bytes(field).strip()
    if value.startswith(b'"'):
        return 1
    items = [bytes(item).strip()[:1] for item in _decode_list(value)] if value.startswith(b"[") else []
    if items and all(item.isdigit() for item in items):
        return 1
    if items and all(item in {b'"', b"["} for item in items):
        return len(items)
    raise BadInferenceRequestError(f"`{name}` must be a string, an array of strings, or tokens.", name)
