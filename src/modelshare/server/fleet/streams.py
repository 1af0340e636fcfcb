"""Requests on an agent's link: the credit of each one, and a queue for answers that are awaited.

An agent may send at most `LinkRequest.credit` bytes of an answer. Credit is only given back for bytes that went on to
the client, so a slow client slows down its own engine, not the other streams of the link.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from modelshare.wire.link import (
    BODY_SLICE,
    Answer,
    AnswerFrame,
    Chunk,
    CloseCode,
    Credit,
    DeploymentLoad,
    End,
    Frame,
    Head,
)

_CREDIT_STEPS: Final = 4
"""Credit is given back in quarters of the window: one frame per chunk would cost too much."""


class StreamBrokenError(Exception):
    """The connection to the engine broke before the answer was complete."""


class ClosedError(Exception):
    """The connection ends; `reason` is sent to the agent."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class AnswerSink(Protocol):
    """Receives an answer, in the callback that reads the link. It must not raise."""

    def deliver(self, frame: AnswerFrame) -> None:
        """Takes the next frame."""
        ...

    def fail(self, error: Exception) -> None:
        """There will be no further frame."""
        ...


class AnswerStream(Protocol):
    """An answer as it arrives, over this process's connection or from another process."""

    async def next(self) -> AnswerFrame:
        """The next frame. Raises StreamBrokenError, or what `fail` was given."""
        ...

    def fail(self, error: Exception) -> None:
        """Makes `next` raise, after the frames that have already arrived."""
        ...


class RequestLink(Protocol):
    """The link, as its requests use it."""

    def post(self, frame: Frame) -> None: ...
    def forget(self, request: "LinkRequest") -> None: ...


class EngineLoad:
    """How busy the engine of a deployment is, in sequences."""

    __slots__ = ("elsewhere", "here", "slots")

    def __init__(self) -> None:
        self.slots = 0
        """How many it processes at once; 0 if the agent does not say."""
        self.here = 0
        """Asked for over this connection."""
        self.elsewhere = 0
        """The others, as the agent last reported."""

    @property
    def is_full(self) -> bool:
        return 0 < self.slots <= self.here + self.elsewhere


_UNKNOWN: Final = EngineLoad()


class EngineLoads:
    """Those of all engines of an agent, by deployment."""

    def __init__(self) -> None:
        self._loads: dict[str, EngineLoad] = {}

    @property
    def busy(self) -> int:
        return sum(load.here + load.elsewhere for load in self._loads.values())

    def of(self, deployment_id: str) -> EngineLoad:
        return self._loads.get(deployment_id, _UNKNOWN)

    def begin(self, deployment_id: str, sequences: int) -> EngineLoad:
        """A request is sent."""
        load = self._loads.get(deployment_id)
        if load is None:
            load = self._loads[deployment_id] = EngineLoad()
        load.here += sequences
        return load

    def report(self, reported: Sequence[DeploymentLoad] | None) -> None:
        """The agent says how busy its engines are; None: it does not."""
        if reported is None:
            return
        self._loads = {name: load for name, load in self._loads.items() if load.here}
        for load in self._loads.values():
            load.slots = load.elsewhere = 0
        for each in reported:
            load = self._loads.setdefault(each.deployment_id, EngineLoad())
            load.slots = each.slots
            load.elsewhere = max(0, each.running + each.waiting - load.here)


class LinkRequest:
    """One request on the link."""

    __slots__ = (
        "_begun",
        "_link",
        "_owed",
        "credit",
        "ended",
        "id",
        "is_sent",
        "load",
        "sequences",
        "sink",
        "window",
    )

    def __init__(
        self, link: RequestLink, stream_id: int, window: int, sink: AnswerSink, load: EngineLoad, sequences: int
    ) -> None:
        self.id = stream_id
        self.load = load
        self.sequences = sequences
        self.window = window
        """Bytes that may be in transit or waiting."""
        self.credit = window
        """Bytes that the agent may still send."""
        self.ended = False
        """The answer is complete."""
        self.is_sent = False
        """The agent knows of the request."""
        self.sink = sink
        self._begun = False
        self._link = link
        self._owed = 0

    def deliver(self, frame: AnswerFrame) -> None:
        """Passes a frame on. Raises ClosedError if it is out of sequence or exceeds the credit."""
        kind = type(frame)
        if self.ended or (kind is Chunk and not self._begun) or (kind in _FIRST and self._begun):
            raise ClosedError(CloseCode.PROTOCOL, "The agent sent a frame out of sequence.")
        self._begun = True
        self.ended = kind in _LAST
        if type(frame) is Chunk or type(frame) is Answer:
            self.credit -= len(frame.data)
            if self.credit < 0:
                raise ClosedError(CloseCode.PROTOCOL, "The agent exceeded its credit.")
        self.sink.deliver(frame)

    def taken(self, count: int) -> None:
        """This many bytes of the answer were passed on: the agent may send as many more."""
        if self.ended:
            return
        self._owed += count
        if self._owed >= self.window // _CREDIT_STEPS:
            owed, self._owed = self._owed, 0
            self.credit += owed
            self._link.post(Credit(self.id, owed))

    def give(self, count: int) -> None:
        """The agent may send this many bytes more."""
        if not self.ended:
            self.credit += count
            self._link.post(Credit(self.id, count))

    def owe(self, count: int) -> None:
        """This many bytes of the answer wait: the agent gets credit for them with the next `taken`."""
        self._owed += count

    def break_off(self, why: ClosedError) -> None:
        """The link is closed. After a violation of the protocol the request is not retried elsewhere: it may have been
        the cause."""
        if why.code is CloseCode.PROTOCOL and not self.ended:
            self.ended = True
            self.sink.deliver(End(self.id, "The agent violated the link protocol."))
        self.sink.fail(StreamBrokenError("The connection to the agent was lost."))

    def close(self) -> None:
        """The answer is no longer wanted: cancels the work on it, unless it is complete."""
        self._link.forget(self)


_FIRST: Final = frozenset({Head, Answer})
_LAST: Final = frozenset({End, Answer})


class Stream:
    """The frames of an answer, in a queue from the link to whoever calls `next`.

    Chunks that wait are joined, so that a thousand small ones weigh no more than their bytes.
    """

    __slots__ = ("_error", "_frames", "_waiter", "request")

    def __init__(self) -> None:
        self.request: LinkRequest
        self._frames: deque[AnswerFrame | bytearray] = deque()
        """A bytearray is chunks that were joined."""
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def deliver(self, frame: AnswerFrame) -> None:
        if not (type(frame) is Chunk and self._frames and self._joined(frame.data)):
            self._frames.append(frame)
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    async def next(self) -> AnswerFrame:
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        taken = self._frames.popleft()
        frame = Chunk(self.request.id, bytes(taken)) if isinstance(taken, bytearray) else taken
        if type(frame) is Chunk:
            self.request.taken(len(frame.data))
        return frame

    def _joined(self, data: bytes) -> bool:
        """Appends to the last chunk if it is still waiting and has room; whether it did."""
        last = self._frames[-1]
        before = last.data if type(last) is Chunk else last
        if not isinstance(before, bytes | bytearray) or len(before) + len(data) > BODY_SLICE:
            return False
        if isinstance(before, bytes):
            before = self._frames[-1] = bytearray(before)
        before += data
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
