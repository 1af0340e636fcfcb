"""Relays one inference request to an agent that can answer it, and the answer back to the client."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

from modelshare.server.errors import RateLimitedError, UnavailableError
from modelshare.server.fleet.link import AgentLink
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import LinkRequest, StreamBrokenError
from modelshare.server.router.answer_usage import AnswerUsage
from modelshare.server.router.errors import BadGatewayError, EngineRefusedError
from modelshare.server.router.metering import MeteredUsage
from modelshare.server.router.target_selection import Conversation, TargetSelector, circuit_of
from modelshare.wire.errors import ErrorCode
from modelshare.wire.link import Answer, AnswerFrame, Chunk, End, Head

if TYPE_CHECKING:
    from modelshare.server.router.call import Call

LONGEST_STREAM: Final = 24 * 3600.0
"""Time limit sent to the agent, in seconds. The tier's limits are applied here, since streams may take longer."""
_EVENTS: Final = "text/event-stream"
_GATHERED: Final = 8 << 20
"""Bytes of an answer that is not a stream. Up to this size it is sent when complete, so that a failure can still be
reported by the status; longer answers are sent as they arrive."""
_DONE: Final = b"data: [DONE]\n\n"
_RETRY_SECONDS: Final = 2
_SERVER_ERROR: Final = 500
_BUSY: Final = frozenset({429, 503})
"""With `retry_after`: the agent or its engine has too much to do."""
_REST_SECONDS: Final = 1
"""How long it gets no requests of those that may wait."""
_MISDIRECTED: Final = 421
"""The agent takes no more requests from the process that was asked."""
_SEARCHES: Final = 3
"""How often the targets are looked up for one request: the version may change again meanwhile."""


class Relay:
    """A request once its body has been read: it tries targets until one answers."""

    def __init__(self, call: "Call", selector: TargetSelector, body: bytes, tenant: str, usage: AnswerUsage) -> None:
        """`tenant`: the project's name for agents."""
        self.usage = usage
        self.conversation: Conversation | None = None
        self.sequences = 1
        """As which the request counts."""
        self._call = call
        self._selector = selector
        self._body = body
        self._tenant = tenant
        self._targets: Sequence[Target] = ()
        self._tried: set[str] = set()
        """Deployments among them."""
        self._target: Target | None = None
        self._searches = 0
        self._has_turn = False
        """It has waited, and may go before those that still wait."""
        self._refused: set[str] = set()
        """Deployments."""
        self._circuit: str | None = None
        """The circuit of the target that was asked, until it is known whether it works."""
        self._is_trial = False
        """Whether it has failed before, and this request tries it again."""
        self._request: LinkRequest | None = None
        """The request at an agent of this process."""
        self._head: Head | None = None
        self._is_events = False
        self._gathered = bytearray()
        self._tail = b""
        """The last bytes that were received of a stream."""
        self._held = b""
        """The last part of a stream, which waits for the token count: many clients leave as soon as they have it."""

    def start(self, targets: Sequence[Target]) -> None:
        """Sends the request to the best target. Raises UnavailableError if there is none."""
        self._searches += 1
        self._targets, self._tried = targets, set(self._refused)
        self._try_next()

    def stop(self) -> None:
        """Cancels the work on the request, unless it is complete."""
        self.report_result(is_failure=None)
        self._target = None
        request, self._request = self._request, None
        if request is not None:
            request.close()

    @property
    def asked(self) -> Collection[str]:
        """The deployments that were asked."""
        return self._tried

    def close(self) -> None:
        """As `stop`, for good: forgets the bytes, which would otherwise wait for the garbage collector."""
        self.stop()
        self._body = self._held = b""
        self._gathered.clear()

    def total_usage(self, *, has_started: bool) -> MeteredUsage:
        """`has_started`: a part of the answer was sent."""
        if self._request is not None and not self._request.is_sent:
            self.usage.is_engine_busy = False
        return self.usage.total(has_started=has_started)

    def writable(self) -> None:
        """The client reads again: the engine may go on."""
        if self._request is not None:
            self._request.taken(0)

    def report_result(self, *, is_failure: bool | None) -> None:
        """Tells the circuit breaker how the target did, once. None: that is not known."""
        circuit, self._circuit = self._circuit, None
        if circuit is not None:
            self._selector.circuits.end(circuit, is_failure=is_failure, is_trial=self._is_trial)

    # Called by the link.

    def deliver(self, frame: AnswerFrame) -> None:
        self._call.guard(self._handle, frame)

    def fail(self, error: Exception) -> None:
        self._call.guard(self._broken, error)

    def _try_next(self) -> None:
        """Tries the best target that is left. After the last one, the targets are looked up again: an agent may learn
        of a new version before this process, and stop a deployment to which requests are still being sent."""
        while (target := self._selector.best(self._targets, self.conversation, self._tried, self._tenant)) is not None:
            if self._call.has_queue and self._waits_for(target):
                return
            self._tried.add(target.deployment_id)
            if self._ask(target):
                return
        if self._searches < _SEARCHES:
            self._call.later(self._search_again())
        elif not self._refused and self._call.may_wait:
            self._call.later(self._search_again(is_patient=True))
        elif self._refused:
            raise UnavailableError(
                "The model is being loaded on its machine; try again in a moment.",
                code=ErrorCode.MODEL_LOADING,
                retry_after=_RETRY_SECONDS,
            )
        else:
            raise UnavailableError(
                "The machine that runs the model is disconnected. Try again in a moment.", retry_after=_RETRY_SECONDS
            )

    # Waiting for a free slot (`request_queue.Waiter`).

    @property
    def refusal(self) -> RateLimitedError:
        return RateLimitedError(
            "All machines that run this model are busy. Try again in a moment.",
            code=ErrorCode.CAPACITY_EXCEEDED,
            retry_after=_RETRY_SECONDS,
        )

    @property
    def blocks_others(self) -> bool:
        return True

    def try_turn(self) -> bool:
        self._targets = self._call.known_targets()
        target = self._selector.best(self._targets, None, self._tried, self._tenant)
        return target is None or not self._selector.is_full(target)

    def go_on(self) -> None:
        self._has_turn = True
        self._call.waited()
        self._call.guard(self._try_next)

    def _waits_for(self, target: Target) -> bool:
        """Whether the request waits, since no target has a free slot, or others wait for it."""
        is_behind = not self._has_turn and self._call.has_waiting(target.deployment_id)
        if not is_behind and not self._selector.is_full(target):
            return False
        subjects = [each.deployment_id for each in self._targets if each.deployment_id not in self._tried]
        self._call.wait(self, subjects, len(self._body), is_first=self._has_turn)
        return True

    def _ask(self, target: Target) -> bool:
        """Sends the request. Returns False if the connection is down."""
        self._target = target
        self.usage.context_length, self.usage.version = target.context_length, target.version
        link = self._selector.link(target)
        if link is None:
            self._call.later(self._ask_elsewhere(target))
        elif not self._send(link, target):
            return False
        self._circuit = circuit_of(self._tenant, target)
        self._is_trial = self._selector.circuits.start(self._circuit)
        return True

    def _send(self, link: AgentLink, target: Target) -> bool:
        """As `_ask`."""
        route, deployment_id = self._call.head.route, target.deployment_id
        try:
            self._request = link.ask(
                self,
                deployment_id,
                route,
                self._body,
                timeout=LONGEST_STREAM,
                tenant=self._tenant,
                sequences=self.sequences,
            )
        except StreamBrokenError:
            return False
        self.usage.is_engine_busy = True
        return True

    async def _ask_elsewhere(self, target: Target) -> None:
        """Asks through the process that the agent is connected to."""
        try:
            link = await self._selector.connect(target)
        except StreamBrokenError as error:
            self._broken(error)
            return
        if self._target is target and not self._send(link, target):
            self._broken(StreamBrokenError("The connection to the other process was lost."))

    async def _search_again(self, *, is_patient: bool = False) -> None:
        self.start(await self._call.fresh_targets(is_patient=is_patient))

    # The answer.

    def _handle(self, frame: AnswerFrame) -> None:
        match frame:
            case Chunk():  # first, since most are
                self._pass_chunk(frame.data)
            case Answer():
                self._pass_answer(frame)
            case End():
                self._pass_end(frame)
            case Head() if self._head is None:
                self._head = frame
                self.usage.status = frame.status
                self._is_events = frame.content_type.startswith(_EVENTS)
            case Head():
                raise BadGatewayError("The machine that runs the model sent an unexpected answer. Try again.")

    def _pass_answer(self, frame: Answer) -> None:
        target = self._target
        if frame.retry_after is not None and frame.status in _BUSY and target is not None and self._call.has_queue:
            self._leave_alone(target, frame.retry_after)
            return
        if frame.refused and frame.status == _MISDIRECTED:
            self._broken(StreamBrokenError("The agent is leaving the process that was asked."))
            return
        if frame.refused:
            self.usage.is_engine_busy = False
            if self._target is not None:
                self._refused.add(self._target.deployment_id)
            self.stop()
            self._try_next()
            return
        self.usage.status = frame.status
        self.usage.answer_bytes = len(frame.data)
        self.usage.report(frame)
        is_failure = frame.status >= _SERVER_ERROR
        self.report_result(is_failure=is_failure and frame.retry_after is None)  # one that is busy works
        wait = () if frame.retry_after is None else ((b"retry-after", b"%d" % frame.retry_after),)
        self._call.reply.whole(frame.status, frame.content_type.encode(), frame.data, wait)
        self._call.finish(is_failure=is_failure)

    def _leave_alone(self, target: Target, seconds: int) -> None:
        """Tries the target again after a while, and meanwhile others."""
        self._selector.rest(target, min(seconds, _REST_SECONDS))
        self._tried.discard(target.deployment_id)
        self.usage.is_engine_busy, self._has_turn = False, True
        self.stop()
        self._try_next()

    def _pass_chunk(self, data: bytes) -> None:
        head = self._head or self._begun()
        if self._is_trial and self._circuit is not None:
            self._is_trial = False
            self._selector.circuits.begin_answer(self._circuit)
        if self._is_events:
            self._call.progress()
            self._pass_events(head, data)
        else:
            self._pass_part(head, data)
        if self._request is not None:
            (self._request.owe if self._call.client.is_blocked else self._request.taken)(len(data))

    def _pass_events(self, head: Head, data: bytes) -> None:
        # The status waits for the first chunk: until then a failure can still be reported by its status.
        if not self._call.reply.status:
            self._start(head)
        self._tail = (data if len(data) >= len(_DONE) else self._tail + data)[-len(_DONE) :]
        is_last = self._tail == _DONE
        self.usage.add_events(data, is_end=is_last)
        if self._held:  # it was not the last part after all
            self._call.reply.write(self._held)
        self._held = data if is_last else b""
        if not is_last:
            self._call.reply.write(data)

    def _pass_part(self, head: Head, data: bytes) -> None:
        self.usage.answer_bytes += len(data)
        if self._call.reply.status:
            self._call.reply.write(data)
            return
        self._gathered += data
        if self.usage.answer_bytes > _GATHERED:
            self._start(head)
            self._call.reply.write(bytes(self._gathered))
            self._gathered.clear()

    def _pass_end(self, frame: End) -> None:
        head = self._begun()
        is_failure = (head if frame.error is None else frame).status >= _SERVER_ERROR
        self.report_result(is_failure=is_failure)
        self.usage.report(frame)
        if frame.error is not None:
            raise (BadGatewayError if is_failure else EngineRefusedError)(frame.error)
        reply = self._call.reply
        if not reply.status and not self._is_events:
            reply.whole(head.status, head.content_type.encode(), bytes(self._gathered))
        else:
            if not reply.status:
                self._start(head)
            reply.write(self._held, more=False)
        self._call.finish(is_failure=is_failure)

    def _begun(self) -> Head:
        """Raises BadGatewayError if the answer did not begin with its head."""
        if self._head is None:
            self.usage.is_engine_busy = False
            self.report_result(is_failure=True)
            raise BadGatewayError("The engine gave no answer. Try again.")
        return self._head

    def _start(self, head: Head) -> None:
        self._call.reply.start(head.status, head.content_type.encode(), is_events=self._is_events)

    def _broken(self, error: Exception) -> None:
        """The connection to the agent was lost: tries another one if nothing was answered."""
        self.usage.is_engine_busy = False
        self.report_result(is_failure=True)
        self.stop()
        if self._call.reply.status:
            raise BadGatewayError("The connection to the machine that runs the model was lost. Try again.") from error
        self._head, self._gathered, self.usage.answer_bytes = None, bytearray(), 0
        self._try_next()
