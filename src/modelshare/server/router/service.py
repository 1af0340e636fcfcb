"""The inference path: authenticate, admit, choose, relay, meter. Raw ASGI on snapshots, without FastAPI and database.

Routes: `/{project_id}/{endpoint_slug}/v1/` followed by `chat/completions`, `completions`, `embeddings`, `models` or
`models/{name}`. Requests and answers pass unchanged in OpenAI's form. Only the numbers of answers and tokens in a
request, and the
content type of an answer, are parsed: parsing more would cost more than relaying.
"""

import asyncio
import hmac
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from modelshare.server import outages
from modelshare.server.accounts.key_auth import KEYS_TOPIC, KeyAuthenticator, KeyUse
from modelshare.server.accounts.sessions import PEOPLE_TOPIC, SessionAuthenticator, SessionUse
from modelshare.server.background import stop_all
from modelshare.server.db import Database
from modelshare.server.endpoints import service as endpoints
from modelshare.server.errors import (
    ApiError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    check_encoding,
    unavailable,
)
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.service import Target
from modelshare.server.http import Caller, bearer, client_address, session_token
from modelshare.server.ids import secret_hash
from modelshare.server.proven import proven
from modelshare.server.router import refusals
from modelshare.server.router.admission import Admission, Gate
from modelshare.server.router.errors import ClientGoneError, GatewayTimeoutError, MethodNotAllowedError
from modelshare.server.router.forward import PREFIX, Forwarder
from modelshare.server.router.holding import HolderConnections
from modelshare.server.router.in_flight import InFlight
from modelshare.server.router.metering import Meter, MeteredUsage
from modelshare.server.router.metrics import RouterMetrics
from modelshare.server.router.relay import RequestRelay, read_body, watched
from modelshare.server.router.reply import Reply
from modelshare.server.router.snapshots import Snapshot, Snapshots
from modelshare.server.router.target_selection import TargetSelector
from modelshare.server.settings import Settings
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.wire.base import SLUG_PATTERN
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import BadInferenceRequestError, InferenceRequest, read
from modelshare.wire.keys import Scope as KeyScope
from modelshare.wire.tiers import Tier

log = structlog.get_logger()

_PATH: Final = re.compile(r"/(proj_[0-9a-f]{12})/([^/]+)/v1/(.+)")
_MODELS: Final = "models"
_ONE_MODEL: Final = "models/"
_ROUTES: Final = {"chat/completions": "POST", "completions": "POST", "embeddings": "POST", _MODELS: "GET"}
_SERVER_ERROR: Final = 500
_SLUG: Final = re.compile(SLUG_PATTERN)
_CLIENT_GONE: Final = 499
"""Status in metrics for a request whose client disconnected before the answer, as in nginx."""


class Router:
    def __init__(self, parts: "RouterParts") -> None:
        self._settings = parts.settings
        self._keys = parts.keys
        self._database = parts.database
        self._sessions = parts.sessions
        self._running_keys = InFlight[KeyUse](parts.keys.revoked_among, refusals.key_over)
        self._running_sessions = InFlight[SessionUse](parts.sessions.revoked_among, refusals.session_over)
        self._running_endpoints = InFlight[uuid.UUID](self._recalled, refusals.recalled)
        parts.database.subscribe(KEYS_TOPIC, lambda _: self._running_keys.check())
        parts.database.subscribe(PEOPLE_TOPIC, lambda _: self._running_sessions.check())
        self._clock = parts.clock
        self._metrics = RouterMetrics(parts.registry)
        self._meter = Meter(parts.database, parts.clock)
        self._snapshots = Snapshots(
            parts.database, parts.tiers, time.monotonic, grace=parts.settings.database_grace_seconds
        )
        self._admission = Admission()
        secret = parts.settings.signing_secret()
        self._tenant_secret = hmac.digest(secret, b"modelshare tenant 1", "sha256")
        self._forwarder = Forwarder(parts.links, secret, parts.clock)
        self._selector = TargetSelector(parts.links, self._forwarder)
        self.holders = HolderConnections(parts.database, parts.links, self._selector)

    async def start(self) -> None:
        await self._meter.start()
        for running in (self._running_keys, self._running_sessions, self._running_endpoints):
            await running.loop.start()

    async def stop(self) -> None:
        """Writes pending usage. Call it when no more requests arrive."""
        await stop_all(each.loop for each in (self._running_keys, self._running_sessions, self._running_endpoints))
        await self._meter.stop()
        await self._snapshots.stop()
        await self._forwarder.stop()

    @staticmethod
    def matches_path(path: str) -> bool:
        """Whether the path is one of the router's."""
        return _PATH.fullmatch(path) is not None or path.startswith(PREFIX)

    async def asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        named = _PATH.fullmatch(scope["path"])
        if named is None:
            await self._forwarder.asgi(scope, receive, send)
            return
        started = time.monotonic()
        project_id, slug, route = named.groups()
        reply = Reply(send, uuid.uuid4().hex.encode())
        self._metrics.under_way.inc()
        try:
            await self._answer(_Request(scope, project_id, slug, route), receive, reply)
        except ApiError as error:
            await (reply.break_off(error) if reply.started else reply.error(error))
        except ClientGoneError:
            log.debug("client gone", request_id=reply.request_id.decode())
        except Exception as error:
            log.error("request failed", request_id=reply.request_id.decode(), path=scope["path"], exc_info=error)  # noqa: TRY400 - with more to say
            if reply.started:
                raise  # the server drops the connection: the client must not mistake a part for the whole answer
            await reply.error(_UnexpectedError())
        finally:
            self._metrics.under_way.dec()
            known = _MODELS if route.startswith(_ONE_MODEL) else route if route in _ROUTES else "other"
            self._metrics.observe(known, reply.status or _CLIENT_GONE, time.monotonic() - started)

    async def _answer(self, request: "_Request", receive: Receive, reply: Reply) -> None:
        with _outage_as_503():
            caller, use = await self._caller(request)
        async with self._cut_with(use):
            await self._answer_to(caller, request, receive, reply)

    async def _answer_to(self, caller: Caller, request: "_Request", receive: Receive, reply: Reply) -> None:
        with _outage_as_503():
            found = (
                await self._snapshots.get(request.project_id, request.slug) if _SLUG.fullmatch(request.slug) else None
            )
        _check(request, caller)
        endpoint = _answering(request, found, self._clock())
        if request.reads_models:
            await reply.whole(200, b"application/json", _models(endpoint, request.model))
            return
        gate = self._admission.gate(endpoint.id, endpoint.tier)
        try:
            gate.enter()
        finally:
            reply.headers = gate.headers()
        try:
            async with self._running_endpoints.track(endpoint.id):
                await self._relay(request, caller, endpoint, gate, receive, reply)
        finally:
            gate.leave()

    async def _relay(
        self, request: "_Request", caller: Caller, endpoint: Snapshot, gate: Gate, receive: Receive, reply: Reply
    ) -> None:
        tier = endpoint.tier
        usage, failed = MeteredUsage(), True
        try:
            async with asyncio.timeout(tier.request_timeout_seconds) as timer:
                check_encoding(request.headers.get(b"content-encoding", b""))
                body = await read_body(receive, self._settings.inference_max_body_bytes, request.content_length)
                asked = _asked(request.route, body, tier)
                tenant = self._tenant(request.project_id)
                relay = RequestRelay(self._selector, tenant, asked, reply, timer, tier.stream_idle_timeout_seconds)
                try:
                    with watched(receive, relay.client_gone), gate.working(asked.turns):
                        await relay.run(self._target_finder(request, endpoint), request.route, body)
                    failed = reply.status >= _SERVER_ERROR
                finally:
                    usage = relay.usage
        except TimeoutError as error:
            raise _too_slow(endpoint.tier, in_stream=reply.started) from error
        except (ClientGoneError, InvalidRequestError):
            failed = False
            raise
        finally:
            gate.charge(usage.prompt_tokens + usage.completion_tokens)
            self._meter.add(endpoint, caller.id, usage, failed=failed)
            self._metrics.tokens(usage.prompt_tokens, usage.completion_tokens)

    def _target_finder(self, request: "_Request", endpoint: Snapshot) -> Callable[[], Awaitable[Sequence[Target]]]:
        """Finds the endpoint's targets: first from this snapshot, then, if none of those worked, from a fresh one."""
        first = True

        async def find_targets() -> Sequence[Target]:
            nonlocal first
            if first:
                first = False
                return endpoint.targets
            with _outage_as_503():
                fresh = await self._snapshots.get(request.project_id, request.slug, since=time.monotonic())
            return _answering(request, fresh, self._clock()).targets

        return find_targets

    def _tenant(self, project_id: str) -> str:
        """The project's name for agents: the same from every process of this platform, and not reversible."""
        return hmac.digest(self._tenant_secret, project_id.encode(), "sha256").hex()

    async def _caller(self, request: "_Request") -> tuple[Caller, KeyUse | SessionUse]:
        token = session_token(request.http, self._settings)
        if token is not None:
            person = await self._sessions.authenticate(token, request.project_id)
            proven(request.http.scope)
            return person, SessionUse(secret_hash(token), request.project_id)
        secret = bearer(request.headers.get(b"authorization", b"").decode("latin-1"))
        address = client_address(request.http)
        caller = await self._keys.authenticate(secret, address) if secret else None
        if secret is None or caller is None:
            raise UnauthenticatedError
        proven(request.http.scope)
        return caller, KeyUse(secret_hash(secret), address)

    def _cut_with(self, use: KeyUse | SessionUse) -> AbstractAsyncContextManager[None]:
        """Ends the block when the key or session ends, unless the setting lets requests finish."""
        if not self._settings.keys_cut_streams:
            return nullcontext()
        return self._running_keys.track(use) if isinstance(use, KeyUse) else self._running_sessions.track(use)

    async def _recalled(self, endpoint_ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
        """Endpoints whose recall is due: their requests end at the deadline."""
        async with self._database.read() as session:
            return await endpoints.recalled(session, endpoint_ids, now=int(self._clock()))


@dataclass(frozen=True, slots=True)
class RouterParts:
    """The router's dependencies."""

    settings: Settings
    database: Database
    tiers: TierRegistry
    links: AgentLinks
    keys: KeyAuthenticator
    sessions: SessionAuthenticator
    registry: CollectorRegistry
    clock: Callable[[], float]
    """Unix seconds."""


class _Request:
    """A request's path and headers."""

    __slots__ = ("headers", "http", "method", "project_id", "route", "slug")

    def __init__(self, scope: Scope, project_id: str, slug: str, route: str) -> None:
        self.project_id = project_id
        self.slug = slug
        self.route = route
        self.http = Request(scope)
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])

    @property
    def model(self) -> str | None:
        """The served name in `models/{name}`; None for the list."""
        return self.route.removeprefix(_ONE_MODEL) if self.route.startswith(_ONE_MODEL) else None

    @property
    def reads_models(self) -> bool:
        return self.route == _MODELS or self.model is not None

    @property
    def content_length(self) -> int:
        """0 if there is none."""
        announced = self.headers.get(b"content-length", b"")
        return int(announced) if announced.isdigit() else 0


class _UnexpectedError(ApiError):
    def __init__(self) -> None:
        super().__init__(
            "Something went wrong on our side. Try again; if the problem persists, give the operator the X-Request-Id."
        )


@contextmanager
def _outage_as_503() -> Iterator[None]:
    """503 if the database is unavailable."""
    try:
        yield
    except Exception as error:
        answer = unavailable(error)
        if answer is None:
            raise
        outages.report("an inference request failed", error)
        raise answer from error


def _check(request: _Request, caller: Caller) -> None:
    """Raises an error unless the caller may call the endpoint."""
    if caller.project_id != request.project_id:
        raise NotFoundError(
            "There is no such project, or this key is not one of its keys.", code=ErrorCode.PROJECT_NOT_FOUND
        )
    caller.check(KeyScope.INFERENCE)
    if caller.endpoint is not None and caller.endpoint != request.slug:
        raise PermissionDeniedError(f"This key may only call the endpoint `{caller.endpoint}`.")


def _answering(request: _Request, endpoint: Snapshot | None, now: float) -> Snapshot:
    """Returns the endpoint. Raises an error unless it can serve this route now."""
    if endpoint is None:
        raise NotFoundError(
            "There is no such endpoint in your project. GET /v1/endpoints lists yours.",
            code=ErrorCode.ENDPOINT_NOT_FOUND,
        )
    method = "GET" if request.reads_models else _ROUTES.get(request.route)
    if method is None:
        raise NotFoundError(f"An endpoint has no route {request.route}. Use one of {', '.join(_ROUTES)}.")
    if request.method != method:
        raise MethodNotAllowedError(f"{request.method} is not allowed here. Use {method}.", method)
    if endpoint.ends_at is not None and now >= endpoint.ends_at:
        raise refusals.recalled()
    if not endpoint.targets:
        raise refusals.unavailable(endpoint.status, endpoint.reason, endpoint.progress)
    served = frozenset[str]().union(*(target.routes for target in endpoint.targets))
    if not request.reads_models and request.route not in served:
        raise refusals.not_served(request.route, served)
    return endpoint


def _asked(route: str, body: bytes, tier: Tier) -> InferenceRequest:
    """Parses the body. Raises InvalidRequestError if it is invalid for this route or exceeds a limit."""
    try:
        asked = read(route, body)
    except BadInferenceRequestError as error:
        raise InvalidRequestError(str(error), param=error.param) from error
    refusals.check_size(asked, tier)
    return asked


def _models(endpoint: Snapshot, wanted: str | None) -> bytes:
    """The served model, as OpenAI's list, or alone if it was requested by name."""
    owner, _, _ = (endpoint.served_name or "").partition("/")
    model = {"id": endpoint.served_name, "object": "model", "created": endpoint.created_at, "owned_by": owner}
    if wanted not in {None, endpoint.served_name}:
        raise NotFoundError(
            f"This endpoint does not serve the model `{wanted}`. It serves `{endpoint.served_name}`.",
            code=ErrorCode.MODEL_NOT_FOUND,
        )
    return json.dumps(model if wanted else {"object": "list", "data": [model]}).encode()


def _too_slow(tier: Tier, *, in_stream: bool) -> GatewayTimeoutError:
    seconds = tier.stream_idle_timeout_seconds if in_stream else tier.request_timeout_seconds
    what = "paused for" if in_stream else "took longer than"
    return GatewayTimeoutError(f"The model {what} {seconds} s, the limit of the tier `{tier.slug}`.")
