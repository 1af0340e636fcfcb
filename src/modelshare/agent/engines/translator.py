"""Translates an engine's stream to the events that the client gets, as bytes."""

from collections.abc import Callable

from modelshare.agent.engines.answers import StreamReader
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.refusals import EngineRefusalError

Write = Callable[[list[Fields]], bytes]


class StreamTranslator:
    """`feed` every chunk until `is_over`; otherwise call `finish` at a regular end."""

    def __init__(self, reader: StreamReader, write: Write) -> None:
        """`write` makes events for the client of the reader's pieces."""
        self.progressed = False
        """The last chunk had a piece of the answer."""
        self._reader = reader
        self._write = write

    @property
    def is_over(self) -> bool:
        return self._reader.is_over

    @property
    def failure(self) -> EngineRefusalError | None:
        return self._reader.failure

    def feed(self, chunk: bytes) -> bytes:
        """The events for the client."""
        return self._written(self._reader.feed(chunk))

    def finish(self) -> bytes:
        return self._written(self._reader.finish())

    def _written(self, pieces: list[Fields]) -> bytes:
        self.progressed = any(pieces)
        return self._write(pieces) if pieces else b""
