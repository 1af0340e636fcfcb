"""Translates an engine's answers for clients. Pure, on bytes, and fast.

The structure of an answer is checked and its tokens are counted. Clients get the fields of OpenAI's API, with the
model's public name.
"""

import base64
import struct
from abc import ABC, abstractmethod
from typing import Any, Final

import msgspec

from modelshare.agent.engines.counts import Counter, Tally
from modelshare.agent.engines.logprobs import with_logprobs
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.refusals import EngineRefusalError, invalid_answer, refusal_in_body
from modelshare.agent.engines.relay_rules import PreparedRequest, RelayPolicy
from modelshare.agent.engines.sse import KEEP_ALIVE, Event, EventParser, EventTooLongError, data_event

DONE: Final = b"[DONE]"
_KEPT: Final = frozenset({"id", "object", "created", "choices", "data", "system_fingerprint", "service_tier"})
"""Fields of an answer that are passed on; `model` and `usage` are rewritten. Others reveal details of the machine and
of its work for other tenants: timings, slots, caches."""


def read_answer(body: bytes, prepared: PreparedRequest, tally: Tally) -> Fields:
    """Parses a complete answer, for `write_answer`. Raises EngineRefusalError if it is invalid."""
    try:
        fields = _decode_fields(body)
        if (error := _field(fields, "error")) is not None:
            raise refusal_in_body(msgspec.json.decode(error), prepared.client_fields)
        if not prepared.asked.generates:
            fields["data"] = _vectors(fields.get("data", _NULL), prepared)
        else:
            tally.generated(_texts_of_answer(fields.get("choices", _NULL), prepared.route))
            if prepared.wanted_logprobs is not None:
                fields["choices"], _ = with_logprobs(fields["choices"], prepared.wanted_logprobs)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, struct.error, ValueError) as error:
        raise invalid_answer() from error
    if (usage := _field(fields, "usage")) is not None:
        tally.set_reported(usage)
    _make_public(fields, prepared.policy)
    return fields


def write_answer(fields: Fields, usage: msgspec.Raw) -> bytes:
    """The complete answer for the client."""
    return _encode(fields | {"usage": usage})


class StreamReader:
    """Parses one stream of an engine. `feed` every chunk until `is_over`; otherwise call `finish` at a regular end.

    Pieces are events for the client, as fields; an empty one only shows that the engine is alive. The usage, which an
    engine sends last, and the end are not among them: `write_end` writes both.
    """

    def __init__(self, prepared: PreparedRequest, tally: Counter) -> None:
        self.is_over = False
        """The engine signalled the end, or failed; anything after that is ignored."""
        self.failure: EngineRefusalError | None = None
        """Why the stream ended early: the engine failed, or sent an invalid answer."""
        self._prepared = prepared
        self._tally = tally
        self.parser: Final = EventParser()
        self._last: Fields = {}
        self._at = 0

    def feed(self, chunk: bytes) -> list[Fields]:
        """The pieces completed by `chunk`."""
        try:
            return self._pieces(self.parser.feed(chunk))
        except EventTooLongError:
            self._fail(invalid_answer())
            return []

    def finish(self) -> list[Fields]:
        """The last pieces, of a stream without `[DONE]`."""
        pieces = self._pieces(self.parser.finish())
        if not self.is_over:
            self._end()
        return pieces

    def _pieces(self, events: list[Event]) -> list[Fields]:
        pieces: list[Fields] = []
        for event in events:
            if self.is_over:
                break
            data = None if event.data is None else event.data.strip()
            if data is None:
                pieces.append({})
            elif data == DONE:
                self._end()
            elif data not in _EMPTY_EVENTS:
                try:
                    piece = self._piece(event)
                except EngineRefusalError as refusal:
                    self._fail(refusal)
                else:
                    pieces += [] if piece is None else [piece]
        return pieces

    def _end(self) -> None:
        self.is_over = True
        if not self._last:
            self._fail(invalid_answer())

    def _fail(self, refusal: EngineRefusalError) -> None:
        self.is_over = True
        self.failure = refusal

    def _piece(self, event: Event) -> Fields | None:
        asked = self._prepared.client_fields
        is_other = event.type not in _FOR_CLIENTS
        try:
            fields = _decode_fields(event.data or b"")
            error = _field(fields, "error")
            if error is not None or event.type == b"error":
                raise refusal_in_body(msgspec.json.decode(event.data or b"" if error is None else error), asked)
            usage = _field(fields, "usage")
            if usage is not None:
                self._tally.set_reported(usage)
            elif "choices" not in fields:
                if is_other:
                    return {}
                raise refusal_in_body(msgspec.json.decode(event.data or b""), asked)
            choices = _decode_pieces(_field(fields, "choices") or b"[]")
            wanted_logprobs = self._prepared.wanted_logprobs
            if choices and wanted_logprobs is not None:
                fields["choices"], self._at = with_logprobs(fields["choices"], wanted_logprobs, self._at)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if is_other:
                return {}
            raise invalid_answer() from error
        self._tally.generated([choice.generated() for choice in choices])
        _make_public(fields, self._prepared.policy)
        self._last = fields
        return fields if choices or usage is None else None


class StreamConsumer(ABC):
    """Takes an engine's stream. `feed` every chunk until `is_over`; otherwise call `finish` at a regular end."""

    def __init__(self, prepared: PreparedRequest, tally: Counter) -> None:
        self.progressed = False
        """The last chunk had a piece of the answer."""
        self.is_over = False
        self.failure: EngineRefusalError | None = None
        """Both as in `StreamReader`, after the last chunk."""
        self._reader = StreamReader(prepared, tally)

    def feed(self, chunk: bytes) -> bytes:
        """The events for the client."""
        return self._taken(self._reader.feed(chunk))

    def finish(self) -> bytes:
        """The last events for the client."""
        return self._taken(self._reader.finish())

    def _taken(self, pieces: list[Fields]) -> bytes:
        self.progressed = any(pieces)
        self.is_over, self.failure = self._reader.is_over, self._reader.failure
        return self._take(pieces) if pieces else b""

    @abstractmethod
    def _take(self, pieces: list[Fields]) -> bytes:
        """The events for the client of at least one piece."""


def write_pieces(pieces: list[Fields]) -> bytes:
    """Events for the client."""
    return b"".join([data_event(_encode(piece)) if piece else KEEP_ALIVE for piece in pieces])


def write_end(prepared: PreparedRequest, piece: Fields, usage: msgspec.Raw) -> bytes:
    """The end of a stream for the client. `piece` is any piece of it, for the fields that all have in common."""
    if not prepared.include_usage:
        return data_event(DONE)
    return data_event(_encode(piece | {"choices": msgspec.Raw(b"[]"), "usage": usage})) + data_event(DONE)


_encode: Final = msgspec.json.encode
_decode_fields: Final = msgspec.json.Decoder(Fields).decode
_NULL: Final = msgspec.Raw(b"null")
_NO_CALLS: Final = (b"null", b"[]")
_EMPTY_EVENTS: Final = (b"", b"null")
"""llama.cpp begins some streams with such an event."""
_FOR_CLIENTS: Final = (b"message", b"error")
"""Events of other types, such as `ping`, are ignored unless they contain a piece of an answer."""


class _Generated(msgspec.Struct):
    """The generated contents of a message or a part of one."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: msgspec.Raw = _NULL


class _Choice(msgspec.Struct):
    text: str | None = None
    message: _Generated | None = None
    delta: _Generated | None = None

    def generated(self) -> str:
        """Everything that was generated for it. A piece may be empty: the first one of a stream has only the role."""
        generated = self.message or self.delta
        if generated is None:
            return self.text or ""
        texts = [generated.content, generated.reasoning_content or generated.reasoning, generated.refusal]
        if generated.tool_calls is not _NULL and bytes(generated.tool_calls).strip() not in _NO_CALLS:
            texts.append(bytes(generated.tool_calls).decode("utf-8", "replace"))
        return "".join([text for text in texts if isinstance(text, str)])


_decode_pieces: Final = msgspec.json.Decoder(list[_Choice]).decode
_decode_vectors: Final = msgspec.json.Decoder(list[Fields]).decode
_decode_floats: Final = msgspec.json.Decoder(list[float]).decode
_decode_text: Final = msgspec.json.Decoder(str).decode


def _texts_of_answer(choices: msgspec.Raw, route: str) -> list[str]:
    is_chat = route == "chat/completions"
    texts: list[str] = []
    for choice in _decode_pieces(choices):
        if (choice.message if is_chat else choice.text) is None:
            raise invalid_answer()
        texts.append(choice.generated())
    if not texts:
        raise invalid_answer()
    return texts


def _vectors(data: msgspec.Raw, prepared: PreparedRequest) -> msgspec.Raw:
    """One vector for each text, in the requested encoding and order, regardless of the engine's."""
    vectors = _decode_vectors(data)
    if len(vectors) != prepared.asked.prompts:
        raise invalid_answer()
    for vector in vectors:
        raw = vector.get("embedding", _NULL)
        is_base64 = bytes(raw).lstrip().startswith(b'"')
        if is_base64:
            packed = base64.b64decode(_decode_text(raw), validate=True)
            numbers = struct.unpack(f"<{len(packed) // 4}f", packed)
        else:
            numbers = tuple(_decode_floats(raw))
        if not numbers:
            raise invalid_answer()
        if (finish := prepared.policy.finish) is not None:
            numbers = finish(numbers)
        if is_base64 != prepared.is_base64 or finish is not None:
            form = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)) if prepared.is_base64 else numbers
            vector["embedding"] = msgspec.Raw(_encode(form.decode() if isinstance(form, bytes) else form))
    placed = {bytes(vector.get("index", b"")).strip(): vector for vector in vectors}
    in_order = [placed.get(b"%d" % place) for place in range(len(vectors))]
    return msgspec.Raw(_encode(vectors if None in in_order else in_order))


def _make_public(fields: Fields, policy: RelayPolicy) -> None:
    """Leaves only what clients may see, with the model's public name."""
    for name in fields.keys() - _KEPT:
        del fields[name]
    fields["model"] = policy.model_for_client


def _field(fields: Fields, name: str) -> msgspec.Raw | None:
    raw = fields.get(name)
    return None if raw is None or bytes(raw).strip() == b"null" else raw
