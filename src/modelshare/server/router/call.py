"""One inference request, from its headers to the last byte of its answer, as a state machine.

Everything happens in callbacks: of the client's connection, of the agent's link, of the revocation checks and of the
deadline. A task runs only where something has to be looked up in the database, and where the agent is connected to
another process. Requests and answers pass unchanged in OpenAI's form: only the numbers of answers and tokens in a
request, and the content type of an answer, are parsed.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Hashable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import structlog

from modelshare.server.accounts.key_auth import KeyUse
from modelshare.server.accounts.sessions import SessionUse
from modelshare.server.errors import ApiError, InvalidRequestError, RateLimitedError, check_encoding
from modelshare.server.fleet.service import Target
from modelshare.server.http import Caller
from modelshare.server.router.answer_usage import AnswerUsage
from modelshare.server.router.clients import Client, Headers
from modelshare.server.router.errors import body_too_long, database_outages
from modelshare.server.router.in_flight import InFlight
from modelshare.server.router.metering import MeteredUsage
from modelshare.server.router.relay import Relay
from modelshare.server.router.reply import Reply
from modelshare.server.router.request_head import RequestHead, checked_endpoint, models_json, parsed, too_slow
from modelshare.server.router.request_queue import Patience, Waiter
from modelshare.server.router.snapshots import Snapshot
from modelshare.server.router.target_selection import Conversation

if TYPE_CHECKING:
    from modelshare.server.router.admission import Gate
    from modelshare.server.router.service import Router

log = structlog.get_logger()

_OK: Final = 200
_JSON: Final = b"application/json"
_CLIENT_GONE: Final = 499
"""Status in metrics for a request whose client disconnected before the answer, as in nginx."""
_NEVER: Final = float("inf")


class _State(Enum):
    ENTERING = auto()
    """Until it is known who calls which endpoint, and that the tier allows it."""
    READING = auto()
    """The body arrives."""
    RELAYING = auto()
    """An agent is looked for, or works on the answer."""
    OVER = auto()


class Call:
    """One inference request. What the client's connection and timers call never raises."""

    def __init__(self, router: "Router", client: Client, head: RequestHead, headers: Headers = ()) -> None:
        """`headers`: of every answer."""
        self.head = head
        self.reply = Reply(client, router.new_request_id(), headers)
        self.deadline = _NEVER
        """When it has taken too long, by the router's clock."""
        self.drain = client.drain
        self._router = router
        self._client = client
        self._state = _State.ENTERING
        self._is_finished = False
        self._started_at = router.now()
        self._task: asyncio.Task[None] | None = None
        self._in_flight: list[tuple[InFlight[Any], Any]] = []
        self._caller: Caller
        self._endpoint: Snapshot
        self._gate: Gate | None = None
        """Of the endpoint's tier, once the request was let in."""
        self._turns = 1
        self._body: list[bytes] = []
        self._size = 0
        self._relay: Relay | None = None
        self._patience: Patience | None = None
        """If it has to wait, or had to."""
        self._refusal: RateLimitedError | None = None
        """Why the endpoint's limits do not let it in."""

    # Called by the client's connection.

    def begin(self) -> None:
        self.guard(self._identify)

    def arrived(self) -> None:
        if self._state is _State.READING:
            self.guard(self._read)

    def writable(self) -> None:
        if self._relay is not None:
            self._relay.writable()

    def gone(self) -> None:
        if self._state is not _State.OVER:
            log.debug("client gone", request_id=self.reply.request_id.decode())
            self.finish(is_failure=False)

    # Called by timers.

    def too_slow(self) -> None:
        """The deadline has passed."""
        if self._patience is not None and self._patience.is_waiting:
            self.guard(self._give_up)
            return
        if self._relay is not None and not self.reply.status:
            self._relay.report_result(is_failure=True)
        self.end_with(too_slow(self._endpoint.tier, in_stream=self.reply.status > 0))

    def end_with(self, error: Exception) -> None:
        """Ends the request with the error, wherever it is."""
        if self._state is _State.OVER:
            return
        if not isinstance(error, ApiError):
            log.error("request failed", request_id=self._id, path=self.head.path, exc_info=error)
        usage = self._usage()
        self._state = _State.OVER
        try:
            self.reply.error(error if isinstance(error, ApiError) else _UnexpectedError())
        except Exception as problem:
            log.exception("an error could not be sent", request_id=self._id, exc_info=problem)
            self._client.abort()
        self.finish(is_failure=not isinstance(error, InvalidRequestError), usage=usage)

    # Entering.

    def _identify(self) -> None:
        """Finds out who calls, from memory if possible."""
        router, head = self._router, self.head
        use = None if head.has_cookie else head.key_use()
        known = None if use is None else router.keys.known(use)
        if use is None or known is None:
            self.later(self._look_up_caller())
            return
        self._enter(known[0], use)
        found = router.snapshots.known(head.project_id, head.slug)
        if found is None:
            self.later(self._look_up_endpoint())
        else:
            self._admit(found[0])

    async def _look_up_caller(self) -> None:
        with database_outages():
            caller, use = await self._router.caller(self.head)
        self._enter(caller, use)
        await self._look_up_endpoint()

    def _enter(self, caller: Caller | None, use: KeyUse | SessionUse) -> None:
        """Raises UnauthenticatedError for an unknown caller."""
        self._caller = self._router.checked(caller, self.head)
        if (running := self._router.running_of(use)) is not None:
            self._track(running, use)

    async def _look_up_endpoint(self) -> None:
        with database_outages():
            found = await self._router.find_endpoint(self.head)
        self._admit(found)

    def _admit(self, found: Snapshot | None) -> None:
        router, head = self._router, self.head
        head.check(self._caller)
        endpoint = self._endpoint = checked_endpoint(head, found, router.clock())
        if head.reads_models:
            self.reply.whole(_OK, _JSON, models_json(endpoint, head.model))
            self.finish(is_failure=False)
            return
        self._track(router.running_endpoints, endpoint.id)
        if router.queue and (first := router.queue.first(endpoint.id)) is not None:
            self._refusal = first.refusal
            self._wait_behind(router.queue.length(endpoint.id))
        elif self.try_turn():
            self._enter_gate()
        else:
            self._wait_behind(0)

    def _enter_gate(self) -> None:
        self._show_limits()
        self.deadline = self._router.now() + self._endpoint.tier.request_timeout_seconds
        check_encoding(self.head.header(b"content-encoding"))
        self._state = _State.READING
        self._read()

    # Waiting at the endpoint's limits (`request_queue.Waiter`).

    @property
    def refusal(self) -> RateLimitedError:
        assert self._refusal is not None  # noqa: S101 - set before it waits
        return self._refusal

    def try_turn(self) -> bool:
        endpoint = self._endpoint
        gate = self._router.admission.gate(endpoint.id, endpoint.tier)
        try:
            gate.enter()
        except RateLimitedError as refusal:
            self._refusal = refusal
            return False
        self._gate = gate
        return True

    def go_on(self) -> None:
        self.waited()
        self.guard(self._go_on)

    def _go_on(self) -> None:
        """Its turn has come: the endpoint may have changed since."""
        found = self._router.snapshots.known(self.head.project_id, self.head.slug)
        if found is None:
            self.later(self._look_again())
        else:
            self._endpoint = checked_endpoint(self.head, found[0], self._router.clock())
            self._enter_gate()

    async def _look_again(self) -> None:
        await self._refresh()
        self._enter_gate()

    def _wait_behind(self, others: int) -> None:
        """Waits at the endpoint's limits, where others wait. Raises RateLimitedError if it would be too long."""
        self._show_limits()
        self._patient().check(others, self.refusal)
        if self.head.header(b"expect"):  # the client may be told to send its body, or it would count as stalled
            self._take()
        self.wait(self, (self._endpoint.id,))

    def _give_up(self) -> None:
        """It has waited in vain."""
        patience, refusal = self._patient(), (self._relay or self).refusal
        place = patience.place
        patience.leave()
        self._show_limits()
        self._show(patience.headers(place))
        raise patience.over(refusal, place)

    def _show_limits(self) -> None:
        self._show(self._router.admission.gate(self._endpoint.id, self._endpoint.tier).headers())

    def _show(self, headers: Headers) -> None:
        """Sends them with the answer, in place of those of the same names."""
        if headers:
            names = {name for name, _ in headers}
            self.reply.headers = [*(each for each in self.reply.headers if each[0] not in names), *headers]

    def _patient(self) -> Patience:
        if self._patience is None:
            router, endpoint = self._router, self._endpoint
            self._patience = Patience(router.queue, endpoint.project_id, endpoint.id, endpoint.tier, router.now)
        return self._patience

    def _take(self) -> None:
        if data := self._client.take():
            self._body.append(data)
            self._size += len(data)

    def _read(self) -> None:
        limit, announced = self._router.max_body_bytes, self.head.content_length
        if announced <= limit:
            self._take()
        if max(self._size, announced) > limit:
            raise body_too_long(limit)
        if self._client.complete:
            self._start_relay(self._body[0] if len(self._body) == 1 else b"".join(self._body))

    def _start_relay(self, body: bytes) -> None:
        self._state, self._body = _State.RELAYING, []
        request = parsed(self.head.route, body, self._endpoint.tier)
        if self._gate is not None:
            self._turns = request.turns
            self._gate.count_as(self._turns)
        tenant = self._router.tenant(self.head.project_id)
        self._relay = Relay(self, self._router.selector, body, tenant, AnswerUsage(request, len(body)))
        self._relay.sequences = self._turns
        if len(self._endpoint.targets) > 1:
            session = self.head.header(b"x-session-id")
            self._relay.conversation = Conversation.of(self._endpoint.id, self.head.route, body, session)
        self._relay.start(self._endpoint.targets)

    # Called by the relay.

    @property
    def is_client_blocked(self) -> bool:
        """Whether the client reads too slowly."""
        return self._client.is_blocked

    @property
    def may_wait(self) -> bool:
        """Whether the tier has a queue."""
        return self._endpoint.tier.queue_seconds > 0

    def has_waiting(self, deployment_id: str) -> bool:
        """Whether others wait for it."""
        return self._router.queue.length(deployment_id) > 0

    def wait(self, waiter: Waiter, subjects: Sequence[Hashable], size: int = 0, *, is_first: bool = False) -> None:
        """Waits for one of the subjects; see `Ticket`. Raises RateLimitedError if there is no time or space for it."""
        patience = self._patient()
        if not patience.begin(waiter, subjects, size, is_first=is_first):
            raise waiter.refusal
        self.deadline = patience.until

    def waited(self) -> None:
        """It had its turn, if it had to wait for one: now its time begins."""
        self.deadline = self._router.now() + self._endpoint.tier.request_timeout_seconds
        if self._patience is not None:
            self._patience.has_left()
            self._show(self._patience.headers())

    def progress(self) -> None:
        """A part of a stream has arrived: the next one has as much time again."""
        self.deadline = self._router.now() + self._endpoint.tier.stream_idle_timeout_seconds

    def known_targets(self) -> Sequence[Target]:
        """The endpoint's targets. They are a second old at most, if this is called again and again."""
        found = self._router.snapshots.known(self.head.project_id, self.head.slug)
        if found is None and (self._task is None or self._task.done()):
            self.later(self._refresh())
        return found[0].targets if found and found[0] else self._endpoint.targets

    async def _refresh(self) -> None:
        with database_outages():
            found = await self._router.find_endpoint(self.head)
        self._endpoint = checked_endpoint(self.head, found, self._router.clock())

    async def fresh_targets(self) -> Sequence[Target]:
        """The endpoint's targets as they are in the database now."""
        with database_outages():
            fresh = await self._router.find_endpoint(self.head, is_fresh=True)
        return checked_endpoint(self.head, fresh, self._router.clock()).targets

    def guard(self, step: Callable[[], None]) -> None:
        """Takes the step, unless the request is over; an error ends the request."""
        if self._state is not _State.OVER:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - it is answered
                self.end_with(error)

    def later(self, step: Coroutine[Any, Any, None]) -> None:
        """Takes the step in a task."""

        async def guarded() -> None:
            try:
                await step
            except Exception as error:  # noqa: BLE001 - it is answered
                self.end_with(error)

        self._task = asyncio.ensure_future(guarded())
        self._task.add_done_callback(lambda _: step.close())  # it may be cancelled before it starts

    def finish(self, *, is_failure: bool, usage: MeteredUsage | None = None) -> None:
        """Frees what the request holds, and counts it. `usage`: as it was before an error was answered."""
        if self._is_finished:
            return
        self._state, self.deadline, self._is_finished = _State.OVER, _NEVER, True
        usage = usage or self._usage()
        router = self._router
        if self._patience is not None and self._patience.is_waiting:
            self._patience.leave()
        if self._relay is not None:
            if router.queue:
                router.queue.freed(*self._relay.asked)
            self._relay.close()
            self._relay, self._body = None, []
        for running, subject in self._in_flight:
            running.leave(subject, self)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._gate is not None:
            if router.queue:
                router.queue.freed(self._endpoint.id)
            self._gate.leave(self._turns)
            self._gate.charge(usage.prompt_tokens + usage.completion_tokens)
            router.meter.add(self._endpoint, self._caller.id, usage, failed=is_failure)
            router.metrics.tokens(usage.prompt_tokens, usage.completion_tokens)
        router.over(self, self.reply.status or _CLIENT_GONE, router.now() - self._started_at)

    @property
    def _id(self) -> str:
        return self.reply.request_id.decode()

    def _usage(self) -> MeteredUsage:
        return MeteredUsage() if self._relay is None else self._relay.total_usage(has_started=self.reply.status > 0)

    def _track(self, running: InFlight[Any], subject: KeyUse | SessionUse | uuid.UUID) -> None:
        running.enter(subject, self)
        self._in_flight.append((running, subject))


class _UnexpectedError(ApiError):
    def __init__(self) -> None:
        super().__init__(
            "Something went wrong on our side. Try again; if the problem persists, give the operator the X-Request-Id."
        )
