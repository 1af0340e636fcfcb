"""Translates an engine's stream to the events that the client gets, as bytes.

Most events of a stream differ only in their text. After one such event, its other bytes and their translation are
known: whole events with exactly these bytes, around any text, need not be parsed. Every other event is.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from modelshare.agent.engines.answers import StreamReader
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.relay_rules import PreparedRequest

Write = Callable[[list[Fields]], bytes]
_EVENT_END: Final = b"\n\n"
_SENTINEL: Final = b"7ad0c1c0f2"
"""A text that replaces the one of an event, to see where it is in the translation."""
_TEXT_NAMES: Final = (b'"content":', b'"text":', b'"reasoning_content":', b'"reasoning":')
_FUTILE: Final = 8
"""Events after which nothing more is learnt, if what was learnt was of no use."""
_decode_text: Final = msgspec.json.Decoder(str).decode


class _Form(NamedTuple):
    """The bytes around the text: of the engine's event, and of the client's."""

    before: bytes
    after: bytes
    before_for_client: bytes
    after_for_client: bytes


class _Recorder:
    """Implements `counts.Counter`."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.has_usage = False

    def generated(self, texts: Iterable[str]) -> None:
        self.texts += texts

    def set_reported(self, usage: msgspec.Raw) -> None:
        del usage
        self.has_usage = True


class StreamTranslator:
    """`feed` every chunk until `is_over`; otherwise call `finish` at a regular end."""

    def __init__(self, prepared: PreparedRequest, tally: Tally, write: Write) -> None:
        """`write` makes events for the client of the pieces of an answer. It must not look into their texts."""
        self.progressed = False
        """The last chunk had a piece of the answer."""
        self._prepared = prepared
        self._tally = tally
        self._reader = StreamReader(prepared, tally)
        self._write = write
        self._form: _Form | None = None
        self._lessons_left = _FUTILE if prepared.wanted_logprobs is None else 0  # log probabilities have positions

    @property
    def is_over(self) -> bool:
        return self._reader.is_over

    @property
    def failure(self) -> EngineRefusalError | None:
        return self._reader.failure

    def feed(self, chunk: bytes) -> bytes:
        """The events for the client."""
        if self._form is not None and self._reader.is_between_events:
            events = self._translate(chunk, self._form)
            if events is not None:
                self.progressed, self._lessons_left = True, _FUTILE
                return events
        was_between_events = self._reader.is_between_events
        events = self._written(self._reader.feed(chunk))
        if was_between_events and self._lessons_left and self.progressed and not self._reader.is_over:
            self._lessons_left -= 1
            self._form = self._learn(chunk) or self._form
        return events

    def finish(self) -> bytes:
        return self._written(self._reader.finish())

    def _written(self, pieces: list[Fields]) -> bytes:
        self.progressed = any(pieces)
        return self._write(pieces) if pieces else b""

    def _translate(self, chunk: bytes, form: _Form) -> bytes | None:
        """The translation of whole events that have the known form; None if anything is different."""
        if not chunk.endswith(_EVENT_END):
            return None
        before, after, before_for_client, after_for_client = form
        at, end = len(before), -len(after)
        texts: list[str] = []
        translated: list[bytes] = []
        for event in chunk[: -len(_EVENT_END)].split(_EVENT_END):
            raw = event[at:end]
            if not raw or not event.startswith(before) or not event.endswith(after):
                return None
            try:
                texts.append(_decode_text(b'"%b"' % raw))
            except (msgspec.DecodeError, UnicodeDecodeError):
                return None
            translated += (before_for_client, raw, after_for_client)
        self._tally.generated(texts)
        return b"".join(translated)

    def _learn(self, chunk: bytes) -> _Form | None:
        """The form of the chunk's last event, if only its text varies."""
        event = chunk[: -len(_EVENT_END)].rpartition(_EVENT_END)[2] if chunk.endswith(_EVENT_END) else b""
        for name in _TEXT_NAMES:
            before, found, rest = event.partition(name)
            space = rest[: len(rest) - len(rest.lstrip(b" "))]
            text, quote, after = rest[len(space) :].removeprefix(b'"').partition(b'"')
            if found and quote and text and not text.endswith(b"\\") and event.startswith(b"data:"):
                form = self._verified(before + found + space + b'"', b'"' + after)
                if form is not None:
                    return form
        return None

    def _verified(self, before: bytes, after: bytes) -> _Form | None:
        """Translates the event with another text, by itself: it has to be all that is generated by it."""
        tally = _Recorder()
        reader = StreamReader(self._prepared, tally)
        pieces = reader.feed(before + _SENTINEL + after + _EVENT_END)
        if tally.texts != [_SENTINEL.decode()] or tally.has_usage or len(pieces) != 1 or reader.is_over:
            return None
        before_for_client, found, after_for_client = self._write(pieces).partition(_SENTINEL)
        if not found or _SENTINEL in after_for_client or b"\r" in before + after:
            return None
        return _Form(before, after, before_for_client, after_for_client)
