"""What is changed in requests and answers between the link and an engine. Pure, on bytes, and quick.

Most engines are started under the public name and end their streams by themselves; then the bytes of a stream pass
as they are, and only the events that hold a usage, an error or the end are looked into.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from modelshare.agent.engines.sse import EventSplitter, data_event, data_of

DONE: Final = b"[DONE]"

Fields = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPolicy:
    """How an engine differs from what clients are promised."""

    public_name: str
    request_model: str | None
    """What the engine wants in a request's `model`; None leaves the field out."""
    names_itself: bool = True
    """Its answers carry `public_name`, once `request_model` was sent."""
    ends_streams: bool = True
    """Its streams end with `data: [DONE]`."""
    usage_on_request: bool = True
    """Its streams tell their usage only when `stream_options.include_usage` asks for it."""
    private: tuple[str, ...] = ()
    """Texts of this machine, such as the model's path, that must not reach a client in an error."""
    too_long: bytes | None = None
    """By what its failures tell that the input was too long, where their status says that it failed itself."""

    def under(self, public_name: str) -> "RelayPolicy":
        """The policy after the model was renamed, the engine having been started under its former name."""
        return self if public_name == self.public_name else replace(self, public_name=public_name, names_itself=False)


class BadRequest(Exception):
    """The body cannot be relayed; the text is for the client."""


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class PreparedRequest(msgspec.Struct, frozen=True):
    body: bytes
    stream: bool
    hide_usage: bool
    """The usage is asked for on our own account: the client must not see the extra chunk."""


def prepare_request(body: bytes, policy: RelayPolicy) -> PreparedRequest:
    """The body for the engine. Values other than `model` and `stream_options` keep their bytes. Raises BadRequest."""
    try:
        fields = _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest("The request body must be a JSON object.") from error
    except RecursionError as error:
        raise BadRequest("The request body is nested too deeply.") from error
    if policy.request_model is None:
        fields.pop("model", None)
    else:
        fields["model"] = _raw(policy.request_model)
    stream = _is(fields.get("stream"), b"true")
    hide_usage = stream and policy.usage_on_request and _ask_for_usage(fields)
    return PreparedRequest(msgspec.json.encode(fields), stream, hide_usage)


def rewrite_answer(body: bytes, policy: RelayPolicy) -> tuple[bytes, Usage]:
    """A whole, successful answer for the client, and its usage."""
    usage = _usage_in(body)
    if policy.names_itself:
        return body, usage
    try:
        fields = _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body, usage
    return (_encode(fields) if _rename(fields, policy) else body), usage


def check_length(body: bytes, policy: RelayPolicy) -> None:
    """Raises BadRequest when an engine's failure says that the input was too long."""
    if policy.too_long is not None and policy.too_long in body:
        raise BadRequest("The input is longer than the model takes at once; send a shorter one, or several.")


def rewrite_error(status: int, body: bytes, policy: RelayPolicy) -> bytes:
    """An engine's refusal in OpenAI's shape. Of a failure of the engine itself (5xx) no detail is passed on."""
    message = "The engine failed on this request; try again, or change the request."
    if status < 500 and (said := _message_in(body)):  # noqa: PLR2004  HTTP: 5xx is the server's own fault
        for text in policy.private:
            said = said.replace(text, policy.public_name)
        message = said
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004
    return msgspec.json.encode({"error": {"message": message, "type": kind, "code": None, "param": None}})


class StreamRewriter:
    """An engine's stream of events for the client. `feed` every chunk, then `finish` when the engine ended it well."""

    def __init__(self, policy: RelayPolicy, *, hide_usage: bool) -> None:
        self.usage = Usage()
        self._policy = policy
        self._hide_usage = hide_usage
        self._splitter = EventSplitter()
        self._done = False

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets of it; may be nothing yet."""
        if self._is_plain(chunk):
            return chunk
        return b"".join([self._rewrite(event) for event in self._splitter.feed(chunk)])

    def finish(self) -> bytes:
        """The rest. Not to be called for a stream that broke off: its end would look like a success."""
        rest = self._rewrite(self._splitter.rest + b"\n\n") if self._splitter.rest.strip() else b""
        return rest if self._done else rest + data_event(DONE)

    def _is_plain(self, chunk: bytes) -> bool:
        """Whole events with nothing to see or change. A quoted word in a text has its quotes escaped: no match."""
        return (
            self._policy.names_itself
            and not self._splitter.rest
            and chunk.endswith(b"\n\n")
            and b'"usage"' not in chunk
            and b'"error"' not in chunk
            and DONE not in chunk
        )

    def _rewrite(self, event: bytes) -> bytes:
        data = data_of(event)
        if data is None:
            return event
        if data == DONE:
            self._done = True
            return event
        try:
            fields = _decode_fields(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event
        if "error" in fields:
            return data_event(rewrite_error(400, data, self._policy))
        if not _is(fields.get("usage", _NULL), b"null"):
            self.usage = _usage_in(data)
            if self._hide_usage and _is(fields.get("choices"), b"[]"):
                return b""
        renamed = not self._policy.names_itself and _rename(fields, self._policy)
        return data_event(_encode(fields)) if renamed else event


_decode_fields: Final = msgspec.json.Decoder(Fields).decode
_encode: Final = msgspec.json.encode
_NULL: Final = msgspec.Raw(b"null")
_TRUE: Final = msgspec.Raw(b"true")


class _WithUsage(msgspec.Struct):
    usage: Usage | None = None


_decode_usage: Final = msgspec.json.Decoder(_WithUsage).decode


def _usage_in(body: bytes) -> Usage:
    try:
        return _decode_usage(body).usage or Usage()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Usage()


def _ask_for_usage(fields: Fields) -> bool:
    """Returns whether the client had not asked itself."""
    given = fields.get("stream_options", _NULL)
    options: Fields = {}
    if not _is(given, b"null"):
        try:
            options = _decode_fields(given)
        except msgspec.DecodeError:
            return False  # the engine will tell the client what is wrong with it
    if _is(options.get("include_usage"), b"true"):
        return False
    fields["stream_options"] = msgspec.Raw(_encode(options | {"include_usage": _TRUE}))
    return True


def _rename(fields: Fields, policy: RelayPolicy) -> bool:
    """Put the public name where the engine's own name is; returns whether that changed anything."""
    name = _raw(policy.public_name)
    if "model" not in fields or _is(fields["model"], bytes(name)):
        return False
    fields["model"] = name
    return True


def _message_in(body: bytes) -> str | None:
    """The sentence in an error body: OpenAI's shape, FastAPI's `detail`, or plain text in `error` or `message`."""
    try:
        content: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    for key in ("error", "message", "detail"):
        if isinstance(content, dict):
            content = content.get(key, content)
    if isinstance(content, list) and content and isinstance(content[0], dict):  # FastAPI lists what is invalid
        content = content[0].get("msg")
    return content if isinstance(content, str) else None


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(_encode(text))


def _is(value: msgspec.Raw | None, expected: bytes) -> bool:
    return value is not None and bytes(value).strip() == expected
