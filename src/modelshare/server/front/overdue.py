"""The deadlines of a connection: when each phase has taken too long, and what happens then; how it stops."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from modelshare.server.errors import ApiError
from modelshare.server.front import refusals, sending
from modelshare.server.front.exchange import Exchange
from modelshare.server.front.pace import ConnectionPhase, Doubt, Pace
from modelshare.server.front.parsing import Parser
from modelshare.server.front.room import Seat

if TYPE_CHECKING:
    from modelshare.server.front.server import Front, Limits


NEVER: Final = float("inf")
_REUSE_SECONDS: Final = 0.5
"""How long a stop waits for a request on a connection that has just been used."""
_LOOK_SECONDS: Final = 1.0
"""How often it is checked whether a client is still connected whose request waits to be read."""
_BODY_SECONDS: Final = 2.0
"""How long a stop waits for more of a request's body."""


class Overdue:
    """The part of a connection that handles deadlines."""

    deadline: float
    _front: "Front"
    _limits: "Limits"
    _transport: asyncio.Transport
    _parser: Parser
    _phase: ConnectionPhase
    _exchange: Exchange | None
    _doubt: Doubt
    _pace: Pace
    _heard: float
    _answered_at: float
    _received: int
    _sent_of_files: int
    _ahead: int
    is_blocked: bool
    _is_reading: bool
    _now: Callable[[], float]
    _seat: Seat[Any]
    _turned: ConnectionPhase | None

    def _refuse(self, error: ApiError) -> None:
        raise NotImplementedError

    def _close(self, *, lingers: bool) -> None:
        raise NotImplementedError

    def _turn(self) -> None:
        """Updates the deadline after a change of the phase."""
        now, limits, phase = self._now(), self._limits, self._phase
        waits = True
        if phase is ConnectionPhase.HEAD:
            self.deadline = now + limits.head_seconds
        elif phase is ConnectionPhase.BODY:
            waits = self._is_reading
            self._heard = now
            self._pace.begin(now, self._received)
            self.deadline = self._pace.deadline(now) if waits else now + _LOOK_SECONDS
        elif phase is ConnectionPhase.WORK:
            waits = self.is_blocked and not (self._exchange is not None and self._exchange.is_stream)
            if waits:
                self._pace.begin(now, self._taken())
            self.deadline = self._pace.deadline(now) if waits else self._doubt.deadline
        elif phase is ConnectionPhase.IDLE:
            self.deadline = now + limits.idle_seconds
        self._turned = phase
        if waits:
            self._seat.take(now, is_idle=phase is ConnectionPhase.IDLE)
        else:
            self._seat.leave()

    def _proven(self) -> None:
        if not self._seat.is_known:
            self._seat.is_known = True
            if self._seat.is_taken:
                self._seat.take(self._now(), is_idle=self._phase is ConnectionPhase.IDLE)

    def _pause_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()
            if self._turned is ConnectionPhase.BODY:
                self._turn()

    def overdue(self, now: float) -> None:
        """The deadline has passed."""
        match self._phase:
            case ConnectionPhase.HEAD if self._parser.is_in_head:
                self._refuse(refusals.head_too_slow(self._limits.head_seconds))
            case ConnectionPhase.BODY if not self._is_reading:
                self._look(now)
            case ConnectionPhase.BODY if not self._comes(now):
                self._refuse(refusals.body_too_slow(self._limits.stalled_seconds))
            case ConnectionPhase.HEAD | ConnectionPhase.IDLE:
                self._close(lingers=False)
            case ConnectionPhase.WORK if self._doubt.is_there and not self.is_blocked:
                self._probe(now)
            case ConnectionPhase.WORK | ConnectionPhase.CLOSING if not self._takes(now):
                self._transport.abort()

    # When the process stops.

    def is_busy(self, now: float) -> bool:
        """Whether an answer is pending, or a request that makes progress or may be on its way."""
        if self._phase is ConnectionPhase.BODY:
            return now <= self._heard + _BODY_SECONDS
        is_pending = self._exchange is not None or self._transport.get_write_buffer_size() > 0
        return is_pending or (self._may_be_reused(now) and not self._transport.is_closing())

    def end(self, now: float) -> None:
        """Closes the connection if it is idle, since the process stops."""
        if self._phase in {ConnectionPhase.HEAD, ConnectionPhase.IDLE} and not self._may_be_reused(now):
            self._transport.close()

    def _may_be_reused(self, now: float) -> bool:
        """Whether the client may be sending a request: the last answer has just ended and did not say that this one
        stops."""
        return self._front.is_leaving and now < self._answered_at + _REUSE_SECONDS

    def _comes(self, now: float) -> bool:
        """False if the body has stalled or is too slow; else sets a new deadline."""
        is_kept = self._pace.is_kept(now, self._received, self._heard)
        self.deadline = self._pace.deadline(self._heard)
        return is_kept

    def _takes(self, now: float) -> bool:
        """False if the client reads nothing, or too slowly; else sets a new deadline."""
        is_owed = self.is_blocked or self._transport.get_write_buffer_size() > 0
        is_kept = is_owed and self._pace.is_kept(now, self._taken(), now)
        self.deadline = self._pace.deadline(now)
        return is_kept

    def _look(self, now: float) -> None:
        """A handler's request waits to be read. Until then nothing says that its client has disconnected."""
        has_handler = self._exchange is not None and self._exchange.handler is not None
        if has_handler and sending.has_closed(self._transport):
            self._probe(now)
        else:
            self.deadline = now + _LOOK_SECONDS

    def _probe(self, now: float) -> None:
        """Sends a byte of the answer to check whether a client that has closed its half is still connected."""
        if sending.is_reset(self._transport):
            self._transport.abort()
        elif self._exchange is not None and not self._exchange.started:
            self._transport.write(refusals.BEGINNING[self._ahead : self._ahead + 1])
            self._ahead = min(self._ahead + 1, len(refusals.BEGINNING))
        self.deadline = self._doubt.again(now)

    def _taken(self) -> int:
        """The number of bytes that the client has received."""
        return self._sent_of_files - sending.pending(self._transport)
