"""Streams a chat with an endpoint, for `modelshare chat`. Programs should use the official `openai` client."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import httpx

from modelshare.client.client import Client
from modelshare.client.errors import UnexpectedAnswerError, from_answer
from modelshare.client.transport import NoAnswer, cannot_reach, not_ours, refusal

_DATA = "data:"
_END = "[DONE]"


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


def stream_chat(
    client: Client, base_url: str, messages: Sequence[Message], *, max_tokens: int | None = None
) -> Iterator[str]:
    """Yields the answer to `messages` as it is generated. Closing the iterator stops the generation.

    Raises ModelshareError.
    """
    body: dict[str, Any] = {"model": "", "stream": True, "messages": [asdict(message) for message in messages]}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    try:
        with client.http.stream(f"{base_url}/chat/completions", body) as answer:
            if not answer.is_success:
                answer.read()
                raise refusal(client.config.url, answer)
            if answer.headers.get("content-type", "").startswith("text/html"):
                raise not_ours(client.config.url)
            yield from _contents(answer)
    except NoAnswer as error:
        raise cannot_reach(client.config.url, error) from error


def _contents(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else ""
        if data == _END:
            return
        if data:
            yield from _pieces(data)


def _pieces(data: str) -> Iterator[str]:
    """The text in one event (OpenAI's `chat.completion.chunk`). Raises ModelshareError for an error event."""
    try:
        event = json.loads(data)
        if "error" in event:
            raise from_answer(500, {}, data.encode())
        yield from (choice["delta"].get("content") or "" for choice in event["choices"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswerError("The endpoint's stream contains an event that is not a chat completion.") from error
