"""One inference request, from its headers to the last byte of its answer, as a state machine.

Everything happens in callbacks: of the client's connection, of the agent's link, of the revocation checks and of the
deadline. A task runs only where something has to be looked up in the database, and where the agent is connected to
another process. Requests and answers pass unchanged in OpenAI's form: only the numbers of answers and tokens in a
request, and the content type of an answer, are parsed.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import structlog

from modelshare.server.accounts.key_auth import KeyUse
from modelshare.server.accounts.sessions import SessionUse
from modelshare.server.errors import ApiError, InvalidRequestError, UnauthenticatedError, check_encoding
from modelshare.server.fleet.service import Target
from modelshare.server.http import Caller
from modelshare.server.proven import proven
from modelshare.server.router.answer_usage import AnswerUsage
from modelshare.server.router.clients import Client, Headers
from modelshare.server.router.entrance import Entrance
from modelshare.server.router.errors import body_too_long, database_outages
from modelshare.server.router.metering import MeteredUsage
from modelshare.server.router.relay import Relay
from modelshare.server.router.reply import Reply
from modelshare.server.router.request_head import RequestHead, checked_endpoint, models_json, parsed, too_slow
from modelshare.server.router.request_queue import Waiter
from modelshare.server.router.snapshots import Snapshot
from modelshare.server.router.target_selection import Conversation

if TYPE_CHECKING:
    import uuid

    from modelshare.server.router.service import Router

log = structlog.get_logger()

_Arguments = TypeVarTuple("_Arguments")
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
        self.client = client
        self.reply = Reply(client, router.new_request_id(), headers)
        self.deadline = _NEVER
        """When it has taken too long, by the router's clock."""
        self.drain = client.drain
        self._router = router
        self._state = _State.ENTERING
        self._is_finished = False
        self._started_at = router.now()
        self._task: asyncio.Task[None] | None = None
        self.caller: Caller
        self.use: KeyUse | SessionUse | None = None
        """The key or session that it depends on, once that was found valid."""
        self.endpoint: Snapshot
        self.endpoint_id: uuid.UUID | None = None
        """The endpoint that it depends on, once it does."""
        self._entrance: Entrance | None = None
        self._gives_up_at: float | None = None
        """Until when it waits for an agent, once it does."""
        self._turns = 1
        self._body: list[bytes] = []
        self._size = 0
        self._relay: Relay | None = None

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
        entrance = self._entrance
        if entrance is not None and entrance.is_waiting:
            self.guard(entrance.give_up, self._relay)
            return
        if self._relay is not None and not self.reply.status:
            self._relay.report_result(is_failure=True)
        self.end_with(too_slow(self.endpoint.tier, in_stream=self.reply.status > 0))

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
            self.client.abort()
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
            self._admit(found.value)

    async def _look_up_caller(self) -> None:
        with database_outages():
            caller, use = await self._router.caller(self.head)
        self._enter(caller, use)
        await self._look_up_endpoint()

    def _enter(self, caller: Caller | None, use: KeyUse | SessionUse) -> None:
        """Raises UnauthenticatedError for an unknown caller."""
        if caller is None:
            raise UnauthenticatedError
        proven(self.head.scope)
        self.caller, self.use = caller, use

    async def _look_up_endpoint(self) -> None:
        with database_outages():
            found = await self._router.find_endpoint(self.head)
        self._admit(found)

    def _admit(self, found: Snapshot | None) -> None:
        router, head = self._router, self.head
        head.check(self.caller)
        now = router.clock()
        if found is not None and found.awaits_agent(now) and self.may_wait:
            self.later(self._admit_with_agent())
            return
        endpoint = self.endpoint = checked_endpoint(head, found, now)
        if head.reads_models:
            self.reply.whole(_OK, _JSON, models_json(endpoint, head.model))
            self.finish(is_failure=False)
            return
        self.endpoint_id = endpoint.id
        self._entrance = Entrance(router, self)
        self._entrance.begin()

    async def _admit_with_agent(self) -> None:
        self._admit(await self._await_agent())

    def _read(self) -> None:
        limit, announced = self._router.max_body_bytes, self.head.content_length
        if announced <= limit:
            self.take()
        if max(self._size, announced) > limit:
            raise body_too_long(limit)
        if self.client.complete:
            self._start_relay(self._body[0] if len(self._body) == 1 else b"".join(self._body))

    def _start_relay(self, body: bytes) -> None:
        self._state, self._body = _State.RELAYING, []
        request = parsed(self.head.route, body, self.endpoint.tier)
        self._turns = request.turns
        if self._entrance is not None and self._entrance.gate is not None:
            self._entrance.gate.count_as(self._turns)
        tenant = self._router.tenant(self.head.project_id)
        self._relay = Relay(self, self._router.selector, body, tenant, AnswerUsage(request, len(body)))
        self._relay.sequences = self._turns
        if len(self.endpoint.targets) > 1:
            session = self.head.header(b"x-session-id")
            self._relay.conversation = Conversation.of(self.endpoint.id, self.head.route, body, session)
        self._relay.start(self.endpoint.targets)

    # Called by the entrance.

    def show(self, headers: Headers) -> None:
        """Sends them with the answer, in place of those of the same names."""
        if headers:
            names = {name for name, _ in headers}
            self.reply.headers = [*(each for each in self.reply.headers if each[0] not in names), *headers]

    def take(self) -> None:
        """Takes what has arrived of the body."""
        if data := self.client.take():
            self._body.append(data)
            self._size += len(data)

    async def refresh(self) -> None:
        """Looks the endpoint up again, unless that was done a second ago. Raises an error if it cannot serve."""
        with database_outages():
            found = await self._router.find_endpoint(self.head)
        if found is not None and found.awaits_agent(self._router.clock()) and self.may_wait:
            found = await self._await_agent()
        self.endpoint = checked_endpoint(self.head, found, self._router.clock())

    def admitted(self) -> None:
        """The endpoint's limits let it in."""
        self.deadline = self._router.now() + self.endpoint.tier.request_timeout_seconds
        check_encoding(self.head.header(b"content-encoding"))
        self._state = _State.READING
        self._read()

    # Called by the relay.

    def progress(self) -> None:
        """A part of a stream has arrived: the next one has as much time again."""
        self.deadline = self._router.now() + self.endpoint.tier.stream_idle_timeout_seconds

    @property
    def has_queue(self) -> bool:
        """Whether the tier has a queue."""
        return self.endpoint.tier.queue_seconds > 0

    def has_waiting(self, deployment_id: str) -> bool:
        """Whether others wait for it."""
        return self._router.queue.length(deployment_id) > 0

    def wait(self, waiter: Waiter, deployments: Sequence[str], size: int, *, is_first: bool) -> None:
        """As `Entrance.wait`."""
        assert self._entrance is not None  # noqa: S101 - it has passed it
        self._entrance.wait(waiter, deployments, size, is_first=is_first)

    def waited(self) -> None:
        """It had its turn at a machine: now its time begins."""
        assert self._entrance is not None  # noqa: S101 - as above
        self._entrance.waited()
        self.deadline = self._router.now() + self.endpoint.tier.request_timeout_seconds

    def known_targets(self) -> Sequence[Target]:
        """The endpoint's targets. They are a second old at most, if this is called again and again."""
        found = self._router.snapshots.known(self.head.project_id, self.head.slug)
        if found is None and (self._task is None or self._task.done()):
            self.later(self.refresh())
        return found.value.targets if found and found.value else self.endpoint.targets

    @property
    def may_wait(self) -> bool:
        """Whether the request may wait for an agent: not if it has waited long enough."""
        return self._gives_up_at is None or self._router.now() < self._gives_up_at

    async def fresh_targets(self, *, is_patient: bool = False) -> Sequence[Target]:
        """The endpoint's targets as they are in the database now. `is_patient`: after the next change of them."""
        with database_outages():
            fresh = None if is_patient else await self._router.find_endpoint(self.head, is_fresh=True)
        if is_patient or (fresh is not None and fresh.awaits_agent(self._router.clock()) and self.may_wait):
            fresh = await self._await_agent()
        return checked_endpoint(self.head, fresh, self._router.clock()).targets

    async def _await_agent(self) -> Snapshot | None:
        """The endpoint, once its agent is connected again or the request has waited long enough."""
        if self._gives_up_at is None:
            self._gives_up_at = self._router.now() + self._router.handover_seconds
        with database_outages():
            return await self._router.await_agent(self.head, self._gives_up_at)

    def guard(self, step: Callable[[*_Arguments], None], *arguments: *_Arguments) -> None:
        """Takes the step, unless the request is over; an error ends the request."""
        if self._state is not _State.OVER:
            try:
                step(*arguments)
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
        router, entrance = self._router, self._entrance
        self._entrance = None  # it refers to this
        if entrance is not None:
            entrance.leave_queue()
            if router.queue.count:
                router.queue.freed(self.endpoint.id, *(self._relay.asked if self._relay is not None else ()))
        if self._relay is not None:
            self._relay.close()
            self._relay, self._body = None, []
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if entrance is not None and entrance.gate is not None:
            entrance.gate.leave(self._turns)
            entrance.gate.charge(usage.prompt_tokens + usage.completion_tokens)
            router.meter.add(self.endpoint, self.caller.id, usage, failed=is_failure)
            router.metrics.tokens(usage.prompt_tokens, usage.completion_tokens)
        router.over(self, self.reply.status or _CLIENT_GONE, router.now() - self._started_at)

    @property
    def _id(self) -> str:
        return self.reply.request_id.decode()

    def _usage(self) -> MeteredUsage:
        return MeteredUsage() if self._relay is None else self._relay.total_usage(has_started=self.reply.status > 0)


class _UnexpectedError(ApiError):
    def __init__(self) -> None:
        super().__init__(
            "Something went wrong on our side. Try again; if the problem persists, give the operator the X-Request-Id."
        )
