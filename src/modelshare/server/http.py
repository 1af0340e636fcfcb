"""Dependencies of routes: the platform, the caller, database sessions, IDs.

`ProjectRoute` authenticates before anything else of the request is read, so that errors reveal nothing to callers
without a key.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Path, Request, Response
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server import public_url
from modelshare.server.addresses import counted_as, forwarded
from modelshare.server.clock import DatabaseClock
from modelshare.server.db import Database
from modelshare.server.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
)
from modelshare.server.ids import parse_uuid
from modelshare.server.model_paths import SLASH
from modelshare.server.openapi import KEYED
from modelshare.server.proven import proven
from modelshare.server.ratelimit import TokenBuckets
from modelshare.server.settings import Settings
from modelshare.server.storage.base import BlobStore
from modelshare.server.storage.stores import Stores
from modelshare.wire.errors import ErrorCode
from modelshare.wire.keys import KeyLimits, Project, Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent the request, according to the key or the session.

    A platform key has no project of its own; on `/{project_id}/v1/...` it acts in that project.
    """

    key_id: uuid.UUID | None
    """None for a person."""
    project_id: str | None
    project_slug: str | None
    scopes: frozenset[Scope]
    """Empty means all."""
    endpoint: str | None = None
    """Slug of the only endpoint the key may call."""
    allowed_ips: tuple[str, ...] = ()
    """Networks the key may be used from; empty means all."""
    expires_at: int | None = None
    value_expires_at: int | None = None
    """When the value that was sent ends, after the key was rotated."""
    is_platform: bool = False
    limits: KeyLimits | None = None
    """None: the key has none."""
    person_id: uuid.UUID | None = None
    """None for a key."""

    @property
    def id(self) -> uuid.UUID:
        """The ID of the key or the person."""
        found = self.key_id or self.person_id
        assert found is not None  # noqa: S101 - a caller is one of the two
        return found

    @property
    def project(self) -> str:
        """The project's ID; raises 401 for a caller without a project."""
        if self.project_id is None:
            raise UnauthenticatedError
        return self.project_id

    @property
    def actor(self) -> str:
        """For the audit log."""
        return f"key:{self.key_id}" if self.key_id else f"person:{self.person_id}"

    def actor_in(self, project_id: str) -> str:
        """For the audit log of `project_id`; a caller of another project appears only as that project."""
        return self.actor if self.project_id in {None, project_id} else f"project:{self.project_slug}"

    def allows(self, scope: Scope) -> bool:
        return not self.scopes or scope in self.scopes

    def check(self, scope: Scope) -> None:
        """403 unless the key, or the person's role, has this scope."""
        if self.allows(scope):
            return
        if self.key_id is None:
            raise PermissionDeniedError("Only an owner of this project may do that. Ask one of them.")
        raise PermissionDeniedError(
            f"This key lacks the scope `{scope}`. Use a key that has it, or one without scopes."
        )


@dataclass(frozen=True, kw_only=True)
class Platform:
    """The services that routes use, wired in `app.py`.

    A domain whose routes or jobs need more declares it in a subclass of the one below: `SharingPlatform`, then
    `EndpointsPlatform`, and so on up to the pages. A route asks for the one it needs, with `Depends(get_platform)`.
    """

    settings: Settings
    database: Database
    store: BlobStore
    """The platform's own. What belongs to a model may lie elsewhere: see `stores`."""
    stores: Stores
    authenticate: Callable[[str, str], Awaitable[Caller | None]]
    """By a key's value and the address from which it is used."""
    authenticate_hash: Callable[[str, str], Awaitable[Caller | None]]
    """As `authenticate`, by the value's hash."""
    authenticate_person: Callable[[str, str], Awaitable[Caller]]
    """By a session's token, in the project with this ID."""
    find_project: Callable[[str], Awaitable[Project | None]]
    find_own_model: Callable[[Caller, str], Awaitable[uuid.UUID | None]]
    public_buckets: TokenBuckets
    clock: DatabaseClock
    """Unix seconds, the same for all processes."""
    metrics: CollectorRegistry
    why_not_ready: Callable[[], Awaitable[list[str]]]
    """Why the platform cannot serve now, without internal details; empty if it can."""

    def now(self) -> int:
        """Unix seconds."""
        return int(self.clock())


SESSION_COOKIE: Final = "modelshare_session"
"""The cookie of a person's session."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 section 9.2.1)."""
_PORTS: Final = {"http": 80, "https": 443}


class ProjectRoute(APIRoute):
    """A route that needs a key."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["openapi_extra"] = {**(options.get("openapi_extra") or {}), **KEYED}
        super().__init__(*args, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            request.state.caller = await authenticate(request)
            return await handle(request)

        return authenticated


def get_platform(request: Request) -> Platform:
    platform: Platform = request.scope["platform"]
    return platform


async def authenticate(request: Request) -> Caller:
    """The caller, or 401. 404 if the path has a project that is not the key's, or of which the person is not a
    member."""
    platform = get_platform(request)
    named: str | None = request.scope.get("project_id")
    if named is not None and (token := session_token(request, platform.settings)):
        person = await platform.authenticate_person(token, named)
        proven(request.scope)
        return person
    secret = bearer(request.headers.get("authorization"))
    caller = await platform.authenticate(secret, client_address(request)) if secret else None
    if caller is None:
        raise UnauthenticatedError
    proven(request.scope)
    if named is None or named == caller.project_id:
        return caller
    project = await platform.find_project(named) if caller.is_platform else None
    if project is None:
        raise NotFoundError(
            "There is no such project, or this key is not one of its keys.", code=ErrorCode.PROJECT_NOT_FOUND
        )
    return replace(caller, project_id=project.id, project_slug=project.slug)


def bearer(header: str | None) -> str | None:
    """The credential of an Authorization header."""
    scheme, _, secret = (header or "").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None


def client_address(request: Request) -> str:
    """The client's address; X-Forwarded-For counts only from a trusted proxy."""
    peer = request.client.host if request.client else ""
    if peer in get_platform(request).settings.trusted_proxies:
        return forwarded(request.headers.getlist("x-forwarded-for")) or peer
    return peer


def session_token(request: Request, settings: Settings) -> str | None:
    """The session's cookie, unless there is an Authorization header.

    403 for a request that may change something and does not come from a page of the platform.
    """
    token = request.cookies.get(SESSION_COOKIE)
    if not token or "authorization" in request.headers:
        return None
    check_same_origin(request, settings)
    return token


def check_same_origin(request: Request, settings: Settings) -> None:
    """403 unless the request only reads, or was sent by a page of the platform (CSRF protection)."""
    if request.method in SAFE_METHODS:
        return
    headers = request.headers
    own = requested_url(request, settings)
    if not is_same_origin(site=headers.get("sec-fetch-site"), origin=headers.get("origin"), own_url=own):
        raise PermissionDeniedError(
            "This request comes from another site. Reload the page and try again, or send a key: `Authorization: "
            "Bearer …`."
        )


def is_same_origin(*, site: str | None, origin: str | None, own_url: str) -> bool:
    """Whether a browser sent the request from the same origin, by `Sec-Fetch-Site`, else by `Origin`. Pure."""
    if site is not None:
        return site == "same-origin"
    given = _origin(origin or "")
    return given is not None and given == _origin(own_url)


def own_url(request: Request, settings: Settings) -> str:
    """The platform's URL for this client, without a trailing slash."""
    return (settings.public_url or public_url.url_of(request)).rstrip("/")


def requested_url(request: Request, settings: Settings) -> str:
    """The platform's URL according to the client, only for comparing origins, never for links. Browsers set `Host`
    themselves, and send cookies only to the host that set them.
    """
    return settings.public_url or f"{request.url.scheme}://{request.headers.get('host', '')}"


def base_url(request: Request) -> str:
    """Like `own_url`, for routes."""
    return own_url(request, get_platform(request).settings)


def require(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller's project key with this scope."""

    async def caller(request: Request) -> Caller:
        found: Caller = request.state.caller
        _ = found.project
        found.check(scope)
        return found

    return caller


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port of a URL (RFC 6454); None for an opaque origin (`null`)."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.scheme in _PORTS and parts.hostname else None


async def platform_caller(request: Request) -> Caller:
    found: Caller = request.state.caller
    if not found.is_platform:
        raise PermissionDeniedError("This route needs a platform key (scope `platform`), which starts with `msp_`.")
    return replace(found, project_id=None, project_slug=None)  # acts on the platform, even if the path has a project


async def _read_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with get_platform(request).database.read() as session:
        yield session


async def _write_session(request: Request) -> AsyncIterator[AsyncSession]:
    async with get_platform(request).database.write() as session:
        yield session


ModelReference = Annotated[
    str, Path(description="Model ID, `owner/name`, or the name of one of the project's own models")
]
NO_MODEL: Final = uuid.UUID(int=0)
"""An ID that no model has, for models the caller cannot know, so that every route gives its own error."""


async def _model_id(request: Request, model_id: ModelReference) -> uuid.UUID:
    value = parse_uuid(model_id)
    if value is None and (caller := getattr(request.state, "caller", None)) is not None:
        value = await get_platform(request).find_own_model(caller, reference_of(model_id))
    return value or unknown_model(model_id)


def reference_of(segment: str) -> str:
    """The readable form of a model's path segment: see `model_paths`."""
    return segment.replace(SLASH, "/")


def unknown_model(segment: str) -> uuid.UUID:
    """`NO_MODEL`, for a model that the caller cannot know; 400 unless the segment is an ID or `owner/name`."""
    if SLASH not in segment:
        raise InvalidRequestError("Invalid model ID")
    return NO_MODEL


async def public_rate_limit(request: Request) -> None:
    """A dependency of routes without a key: limits requests per minute from an address."""
    wait = get_platform(request).public_buckets.take(counted_as(client_address(request)))
    if wait:
        raise RateLimitedError(
            f"Too many requests from your address. Try again in {wait} s.",
            code=ErrorCode.RATE_LIMIT_EXCEEDED,
            retry_after=wait,
        )


# With this scope, the transaction ends before the response is sent.
ReadSession = Annotated[AsyncSession, Depends(_read_session, scope="function")]
WriteSession = Annotated[AsyncSession, Depends(_write_session, scope="function")]
PlatformDep = Annotated[Platform, Depends(get_platform)]
ModelsCaller = Annotated[Caller, Depends(require(Scope.MODELS))]
EndpointsCaller = Annotated[Caller, Depends(require(Scope.ENDPOINTS))]
KeysCaller = Annotated[Caller, Depends(require(Scope.KEYS))]
PlatformCaller = Annotated[Caller, Depends(platform_caller)]
ModelId = Annotated[uuid.UUID, Depends(_model_id)]
"""The ID of one of the caller's own models, from any form in the path. IDs of other models are not changed."""
BaseUrl = Annotated[str, Depends(base_url)]
