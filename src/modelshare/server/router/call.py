"""One inference request, from its headers to the last byte of its answer, as a state machine.

Everything happens in callbacks: of the client's connection, of the agent's link, of the revocation checks and of the
deadline. A task runs only where something has to be looked up in the database, and where the agent is connected to
another process. Requests and answers pass unchanged in OpenAI's form: only the numbers of answers and tokens in a
request, and the content type of an answer, are parsed.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from modelshare.server.accounts.key_auth import KeyUse
from modelshare.server.accounts.sessions import SessionUse
from modelshare.server.errors import (
    ApiError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnavailableError,
    check_encoding,
)
from modelshare.server.fleet.service import Target
from modelshare.server.fleet.streams import Asked, StreamBrokenError
from modelshare.server.http import Caller
from modelshare.server.router.answering import Asking, checked_endpoint, models_json, parsed, too_slow
from modelshare.server.router.errors import BadGatewayError, EngineRefusedError, database_outages
from modelshare.server.router.in_flight import InFlight
from modelshare.server.router.metering import MeteredUsage
from modelshare.server.router.snapshots import Snapshot
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import InferenceRequest, most_tokens, tokens_in
from modelshare.wire.link import Answer, AnswerFrame, Chunk, End, Head

if TYPE_CHECKING:
    from modelshare.server.router.admission import Gate
    from modelshare.server.router.service import Router

log = structlog.get_logger()
Headers = Sequence[tuple[bytes, bytes]]

LONGEST_STREAM: Final = 24 * 3600.0
"""Time limit sent to the agent, in seconds. The tier's limits are applied here, since streams may take longer."""
_EVENTS: Final = "text/event-stream"
_UNBUFFERED: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""For streams of events, which proxies must not buffer."""
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")
_JSON: Final = b"application/json"
_GATHERED: Final = 8 << 20
"""Bytes of an answer that is not a stream. Up to this size it is sent when complete, so that a failure can still be
reported by the status; longer answers are sent as they arrive."""
_DONE: Final = b"data: [DONE]\n\n"
_TRY_AGAIN: Final = frozenset({429, 503})
_RETRY_SECONDS: Final = 2
_DEFAULT_RETRY: Final = (b"retry-after", b"5")
_OK: Final = 200
_SERVER_ERROR: Final = 500
_CLIENT_GONE: Final = 499
"""Status in metrics for a request whose client disconnected before the answer, as in nginx."""
_SEARCHES: Final = 3
"""How often the targets are looked up for one request: the version may change again meanwhile."""
_NEVER: Final = float("inf")


class Client(Protocol):
    """The client's side of a request."""

    @property
    def headers(self) -> Headers: ...
    @property
    def complete(self) -> bool:
        """Whether the whole request was received."""
        ...

    @property
    def is_blocked(self) -> bool:
        """Whether the client reads too slowly."""
        ...

    def take(self) -> bytes:
        """The part of the body that has arrived since the last call."""
        ...

    async def drain(self) -> None:
        """Waits while the client reads too slowly. Returns when it disconnects."""
        ...

    def start(self, status: int, headers: Headers) -> None: ...
    def write(self, data: bytes, *, more: bool) -> None: ...
    def abort(self) -> None:
        """Ends an incomplete response: the client must not mistake a part for the whole."""
        ...


class _State(Enum):
    ENTERING = auto()
    """Until it is known who calls which endpoint, and that the tier allows it."""
    READING = auto()
    """The body arrives."""
    ASKING = auto()
    """An agent is looked for, or works on the answer."""
    OVER = auto()


class UnexpectedError(ApiError):
    def __init__(self) -> None:
        super().__init__(
            "Something went wrong on our side. Try again; if the problem persists, give the operator the X-Request-Id."
        )


class Call:
    """One inference request. Its public methods never raise, except those that tasks call."""

    __slots__ = (
        "_answer_bytes",
        "_asked",
        "_body",
        "_caller",
        "_client",
        "_context",
        "_endpoint",
        "_engine_status",
        "_events",
        "_extra",
        "_gate",
        "_gathered",
        "_head",
        "_held",
        "_in_flight",
        "_is_engine_busy",
        "_is_events",
        "_prompt_bytes",
        "_refused",
        "_request",
        "_router",
        "_searches",
        "_started_at",
        "_state",
        "_status",
        "_tail",
        "_targets",
        "_task",
        "_turns",
        "_usage",
        "_work",
        "asking",
        "deadline",
        "request_id",
    )

    def __init__(self, router: "Router", client: Client, asking: Asking, extra: Headers = ()) -> None:
        """`extra`: headers of every answer."""
        self.asking = asking
        self.request_id = router.new_request_id()
        self.deadline = _NEVER
        """When it has taken too long, in the event loop's time."""
        self._router = router
        self._client = client
        self._extra = extra
        self._state = _State.ENTERING
        self._started_at = router.now()
        self._status = 0
        """Of the answer; 0 until it has been sent and can no longer change."""
        self._task: asyncio.Task[None] | None = None
        self._in_flight: list[tuple[InFlight[Any], Any]] = []
        self._caller: Caller
        self._endpoint: Snapshot
        self._gate: Gate | None = None
        self._turns = 1
        self._body: list[bytes] = []
        self._prompt_bytes = 0
        self._request: InferenceRequest | None = None
        self._targets: Sequence[Target] = ()
        self._searches = 0
        self._refused: set[str] = set()
        self._work: Asked | None = None
        """At the agent."""
        self._asked: Target
        self._is_engine_busy = False
        """Whether an engine may be working on the request."""
        self._context: int | None = None
        self._head: Head | None = None
        self._is_events = False
        self._gathered: list[bytes] = []
        self._engine_status = _OK
        self._tail = b""
        """The last bytes that were received of a stream."""
        self._held = b""
        """The last bytes of a stream, which wait for the token count: many clients leave as soon as they have them."""
        self._events = 0
        self._answer_bytes = 0
        self._usage: MeteredUsage | None = None

    # The client.

    def begin(self) -> None:
        """The headers have arrived."""
        self._guard(self._identify)

    def arrived(self) -> None:
        """There is more of the body."""
        if self._state is _State.READING:
            self._guard(self._read)

    def writable(self) -> None:
        """The client reads again: the engine may go on."""
        if self._work is not None:
            self._work.taken(0)

    def gone(self) -> None:
        """The client has disconnected."""
        if self._state is not _State.OVER:
            log.debug("client gone", request_id=self.request_id.decode())
            self._finish(is_failure=False)

    # Deadlines and revocations.

    def too_slow(self) -> None:
        """The deadline has passed."""
        tier = self._endpoint.tier
        self.end_with(too_slow(tier, in_stream=self._status > 0))

    def end_with(self, error: Exception) -> None:
        """Ends the request with the error, wherever it is."""
        if self._state is _State.OVER:
            return
        if not isinstance(error, ApiError):
            log.error("request failed", request_id=self.request_id.decode(), path=self.asking.path, exc_info=error)
        shown = error if isinstance(error, ApiError) else UnexpectedError()
        usage = self._counted()
        try:
            if not self._status:
                self._answer_error(shown)
            elif self._is_events:
                self._client.write(_event(shown), more=False)
            else:
                self._client.abort()
        except Exception as problem:
            log.exception("an error could not be sent", exc_info=problem)
            self._client.abort()
        self._finish(is_failure=not isinstance(error, InvalidRequestError), usage=usage)

    # Entering.

    def _identify(self) -> None:
        """Finds out who calls, from memory if possible."""
        router, asking = self._router, self.asking
        if asking.has_cookie:
            self._later(self._identify_slowly())
            return
        use = asking.key_use()
        known = router.keys.known(use)
        if known is None:
            self._later(self._identify_slowly())
            return
        self._enter(known[0], use)
        found = router.snapshots.known(asking.project_id, asking.slug)
        if found is None:
            self._later(self._find_endpoint())
        else:
            self._admit(found[0])

    async def _identify_slowly(self) -> None:
        with database_outages():
            caller, use = await self._router.caller(self.asking)
        self._enter(caller, use)
        await self._find_endpoint()

    def _enter(self, caller: Caller | None, use: KeyUse | SessionUse) -> None:
        """Raises UnauthenticatedError for an unknown caller."""
        self._caller = self._router.checked(caller, self.asking)
        if (running := self._router.running_of(use)) is not None:
            self._track(running, use)

    async def _find_endpoint(self) -> None:
        with database_outages():
            found = await self._router.find_endpoint(self.asking)
        self._admit(found)

    def _admit(self, found: Snapshot | None) -> None:
        router, asking = self._router, self.asking
        asking.check(self._caller)
        endpoint = self._endpoint = checked_endpoint(asking, found, router.clock())
        if asking.reads_models:
            self._answer(_OK, _JSON, models_json(endpoint, asking.model))
            self._finish(is_failure=False)
            return
        gate = router.admission.gate(endpoint.id, endpoint.tier)
        try:
            gate.enter()
        finally:
            self._extra = [*self._extra, *gate.headers()]
        self._gate = gate
        self._track(router.running_endpoints, endpoint.id)
        self.deadline = router.now() + endpoint.tier.request_timeout_seconds
        check_encoding(asking.header(b"content-encoding"))
        self._state = _State.READING
        self._read()

    def _read(self) -> None:
        limit, size = self._router.max_body_bytes, self._prompt_bytes
        announced = self.asking.content_length
        if announced <= limit and (data := self._client.take()):
            self._body.append(data)
            self._prompt_bytes = size = size + len(data)
        if max(size, announced) > limit:
            raise PayloadTooLargeError(f"The request body is longer than {limit} bytes, the maximum on this platform.")
        if self._client.complete:
            self._ask()

    # Asking an agent.

    def _ask(self) -> None:
        self._state = _State.ASKING
        self._body = [b"".join(self._body)] if len(self._body) != 1 else self._body
        self._request = parsed(self.asking.route, self._body[0], self._endpoint.tier)
        self._turns = self._request.turns
        if self._gate is not None:
            self._gate.count_as(self._turns)
        self._search(self._endpoint.targets)

    def _search(self, targets: Sequence[Target]) -> None:
        self._searches += 1
        self._targets = [each for each in targets if each.deployment_id not in self._refused]
        self._ask_next()

    def _ask_next(self) -> None:
        """Asks the best target that is left. After the last one, the targets are looked up again: an agent may learn of
        a new version before this process, and stop a deployment to which requests are still being sent."""
        selector = self._router.selector
        while (target := selector.best(self._targets)) is not None:
            self._targets = [each for each in self._targets if each is not target]
            self._asked, self._context = target, target.context_length
            link = selector.link(target)
            if link is None:
                self._is_engine_busy = True
                self._later(self._ask_elsewhere(target))
                return
            try:
                self._work = link.ask(
                    self,
                    target.deployment_id,
                    self.asking.route,
                    self._body[0],
                    timeout=LONGEST_STREAM,
                    tenant=self._router.tenant(self.asking.project_id),
                )
            except StreamBrokenError:
                continue
            self._is_engine_busy = True
            return
        if self._searches < _SEARCHES:
            self._later(self._search_again())
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

    async def _search_again(self) -> None:
        with database_outages():
            fresh = await self._router.find_endpoint(self.asking, is_fresh=True)
        self._search(checked_endpoint(self.asking, fresh, self._router.clock()).targets)

    async def _ask_elsewhere(self, target: Target) -> None:
        """Through the process that the agent is connected to."""
        try:
            async with self._router.selector.request(
                target,
                self.asking.route,
                self._body[0],
                tenant=self._router.tenant(self.asking.project_id),
                timeout=LONGEST_STREAM,
            ) as stream:
                while self._state is not _State.OVER and self._asked is target:
                    frame = await stream.next()
                    self._handle(frame)
                    await self._client.drain()
                    if isinstance(frame, End | Answer):
                        return
        except StreamBrokenError as error:
            self._broken(error)

    # The agent's answer.

    def deliver(self, frame: AnswerFrame) -> None:
        """The agent's next frame."""
        if self._state is not _State.OVER:
            try:
                self._handle(frame)
            except Exception as error:  # noqa: BLE001 - it is answered
                self.end_with(error)

    def fail(self, error: Exception) -> None:
        """The connection to the agent broke."""
        if self._state is not _State.OVER:
            self._guard(lambda: self._broken(error))

    def _handle(self, frame: AnswerFrame) -> None:
        match frame:
            case Chunk():
                self._take(frame.data)
            case Answer():
                self._take_answer(frame)
            case End():
                self._take_end(frame)
            case Head() if self._head is None:
                self._head = frame
                self._engine_status = frame.status
                self._is_events = frame.content_type.startswith(_EVENTS)
            case Head():
                raise BadGatewayError("The machine that runs the model sent an unexpected answer. Try again.")

    def _take_answer(self, frame: Answer) -> None:
        self._is_engine_busy = False
        if frame.refused:
            self._refused.add(self._asked.deployment_id)
            self._leave_agent()
            self._ask_next()
            return
        self._answer_bytes = len(frame.data)
        self._engine_status = frame.status
        self._count(frame)
        wait = () if frame.retry_after is None else ((b"retry-after", b"%d" % frame.retry_after),)
        self._answer(frame.status, frame.content_type.encode(), frame.data, wait)
        self._finish(is_failure=frame.status >= _SERVER_ERROR)

    def _take(self, data: bytes) -> None:
        head = self._head
        if head is None:
            self._is_engine_busy = False
            raise BadGatewayError("The engine gave no answer. Try again.")
        if self._is_events:
            self.deadline = self._router.now() + self._endpoint.tier.stream_idle_timeout_seconds
            # The status waits for the first chunk: until then a failure can still be reported by its status.
            if not self._status:
                self._start(head.status, head.content_type.encode(), _UNBUFFERED)
            before, self._held = self._held, b""
            self._tail = (self._tail + data)[-len(_DONE) :]
            is_last = self._tail == _DONE
            self._events += _events_in(data) - is_last
            if is_last:
                self._held = before + data
            else:
                self._client.write(before + data, more=True)
        else:
            self._answer_bytes += len(data)
            if self._status:
                self._client.write(data, more=True)
            else:
                self._gathered.append(data)
                if self._answer_bytes > _GATHERED:
                    self._start(head.status, head.content_type.encode())
                    self._client.write(b"".join(self._gathered), more=True)
                    self._gathered = []
        if self._work is not None and not self._client.is_blocked:
            self._work.taken(len(data))
        elif self._work is not None:
            self._work.owe(len(data))

    def _take_end(self, frame: End) -> None:
        head = self._head
        self._is_engine_busy = False
        if head is None:
            raise BadGatewayError("The engine gave no answer. Try again.")
        self._count(frame)
        if frame.error is not None:
            raise (BadGatewayError if frame.status >= _SERVER_ERROR else EngineRefusedError)(frame.error)
        if self._status:
            self._client.write(self._held, more=False)
        elif self._is_events:
            self._start(head.status, head.content_type.encode(), _UNBUFFERED)
            self._client.write(b"", more=False)
        else:
            self._answer(head.status, head.content_type.encode(), b"".join(self._gathered))
        self._finish(is_failure=head.status >= _SERVER_ERROR)

    def _broken(self, error: Exception) -> None:
        self._is_engine_busy = False
        self._leave_agent()
        if self._status:
            raise BadGatewayError("The connection to the machine that runs the model was lost. Try again.") from error
        self._head, self._gathered, self._answer_bytes = None, [], 0
        self._ask_next()

    # Answering.

    def _answer(self, status: int, content_type: bytes, body: bytes, headers: Headers = ()) -> None:
        """The whole answer."""
        length = (b"content-length", b"%d" % len(body))
        if status in _TRY_AGAIN and not headers:
            headers = (_DEFAULT_RETRY,)
        self._start(status, content_type, (length, *headers))
        self._client.write(body, more=False)

    def _answer_error(self, error: ApiError) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
        self._answer(error.status, _JSON, json.dumps(error.body(), ensure_ascii=False).encode(), headers)

    def _start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        self._status = status
        known = ((b"content-type", content_type), (b"x-request-id", self.request_id), _NO_SNIFF)
        self._client.start(status, (*known, *headers, *self._extra))

    # The end.

    def _finish(self, *, is_failure: bool, usage: MeteredUsage | None = None) -> None:
        """Frees what the request holds, and counts it. `usage`: if it is not what `_counted` returns."""
        self._state = _State.OVER
        self.deadline = _NEVER
        self._leave_agent()
        for running, subject in self._in_flight:
            running.leave(subject, self)
        router = self._router
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._gate is not None:
            usage = usage or self._counted()
            self._gate.leave(self._turns)
            self._gate.charge(usage.prompt_tokens + usage.completion_tokens)
            router.meter.add(self._endpoint, self._caller.id, usage, failed=is_failure)
            router.metrics.tokens(usage.prompt_tokens, usage.completion_tokens)
        router.over(self, self._status or _CLIENT_GONE, router.now() - self._started_at)

    def _counted(self) -> MeteredUsage:
        """The agent's count, or an estimate if that is missing or impossible, also for a truncated answer.

        If the client disconnected before the answer started, only the prompt is counted: the engine's progress is
        unknown.
        """
        is_estimated = self._usage is None and self._engine_status == _OK and (self._status or self._is_engine_busy)
        if is_estimated and self._request is not None:
            most_prompt, most_completion = most_tokens(self._request, self._prompt_bytes, self._context)
            completion = self._events or tokens_in(self._answer_bytes)
            return MeteredUsage(
                min(tokens_in(self._prompt_bytes), most_prompt), min(completion, most_completion), is_estimate=True
            )
        return self._usage or MeteredUsage()

    def _count(self, frame: Answer | End) -> None:
        if self._engine_status != _OK:
            self._usage = MeteredUsage()
            return
        if not frame.prompt_tokens and not frame.completion_tokens:
            return  # the engine did not count
        assert self._request is not None  # noqa: S101 - it was asked
        most_prompt, most_completion = most_tokens(self._request, self._prompt_bytes, self._context)
        if frame.prompt_tokens <= most_prompt and frame.completion_tokens <= most_completion:
            self._usage = MeteredUsage(frame.prompt_tokens, frame.completion_tokens, frame.estimated)
            return
        log.warning(
            "an agent reports more tokens than the request can have",
            prompt_tokens=frame.prompt_tokens,
            completion_tokens=frame.completion_tokens,
        )

    def _leave_agent(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.close()

    def _track(self, running: InFlight[Any], subject: KeyUse | SessionUse | uuid.UUID) -> None:
        running.enter(subject, self)
        self._in_flight.append((running, subject))

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - it is answered
            self.end_with(error)

    def _later(self, step: Coroutine[Any, Any, None]) -> None:
        """Runs the step in a task."""

        async def guarded() -> None:
            try:
                await step
            except Exception as error:  # noqa: BLE001 - it is answered
                self.end_with(error)

        self._task = asyncio.ensure_future(guarded())


def _event(error: ApiError) -> bytes:
    """An error within a stream of events, as OpenAI's clients expect it."""
    return b"data: " + json.dumps(error.body(), ensure_ascii=False).encode() + b"\n\n"


def _events_in(data: bytes) -> int:
    """Events that begin in it. `data:` inside a text is JSON-encoded and so never at the start of a line."""
    return data.startswith(b"data:") + data.count(b"\ndata:")
