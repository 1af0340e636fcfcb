"""What an inference request asks for, and whether the endpoint can answer it."""

import json
import re
from typing import Any, Final

from starlette.requests import Request
from starlette.types import Scope

from modelshare.server.accounts.key_auth import KeyUse
from modelshare.server.addresses import forwarded
from modelshare.server.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from modelshare.server.http import Caller, bearer
from modelshare.server.ids import secret_hash
from modelshare.server.router import refusals
from modelshare.server.router.errors import GatewayTimeoutError, MethodNotAllowedError
from modelshare.server.router.snapshots import Snapshot
from modelshare.wire.errors import ErrorCode
from modelshare.wire.inference import BadInferenceRequestError, InferenceRequest, read
from modelshare.wire.keys import Scope as KeyScope
from modelshare.wire.tiers import Tier

_PATH: Final = re.compile(r"/(proj_[0-9a-f]{12})/([^/]+)/v1/(.+)")
_MODELS: Final = "models"
_ONE_MODEL: Final = "models/"
_ROUTES: Final = {"chat/completions": "POST", "completions": "POST", "embeddings": "POST", _MODELS: "GET"}


def parse_path(path: str) -> tuple[str, str, str] | None:
    """Project, endpoint and route of a request for inference; None for another path."""
    named = _PATH.fullmatch(path)
    return None if named is None else (named[1], named[2], named[3])


class RequestHead:
    """A request's path and headers."""

    __slots__ = (
        "_headers",
        "_trusted_proxies",
        "method",
        "model",
        "path",
        "project_id",
        "reads_models",
        "route",
        "scope",
        "slug",
    )

    def __init__(self, scope: Scope, path: tuple[str, str, str], trusted_proxies: frozenset[str]) -> None:
        self.project_id, self.slug, self.route = path
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        is_model = self.route.startswith(_ONE_MODEL)
        self.model = self.route.removeprefix(_ONE_MODEL) if is_model else None
        """The served name in `models/{name}`; None for the list."""
        self.reads_models = is_model or self.route == _MODELS
        self.scope = scope
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._trusted_proxies = trusted_proxies

    @property
    def http(self) -> Request:
        return Request(self.scope)

    @property
    def metric(self) -> str:
        """The route's name in metrics: one of few."""
        return _MODELS if self.reads_models else self.route if self.route in _ROUTES else "other"

    @property
    def has_cookie(self) -> bool:
        """Whether it may come from a page, with a session instead of a key."""
        return b"cookie" in self._headers and b"authorization" not in self._headers

    @property
    def content_length(self) -> int:
        """0 if there is none."""
        announced = self.header(b"content-length")
        return int(announced) if announced.isdigit() else 0

    def header(self, name: bytes) -> bytes:
        """Its value; empty if there is none. `name` in lower case."""
        return self._headers.get(name, b"")

    def key_use(self) -> KeyUse:
        """The key and the client's address. Raises UnauthenticatedError if there is no key."""
        secret = bearer(self.header(b"authorization").decode("latin-1"))
        if not secret:
            raise UnauthenticatedError
        return KeyUse(secret_hash(secret), self._address())

    def _address(self) -> str:
        peer: str = (self.scope.get("client") or ("",))[0]
        if peer in self._trusted_proxies:
            headers: list[tuple[bytes, bytes]] = self.scope["headers"]
            return forwarded([value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]) or peer
        return peer

    def check(self, caller: Caller) -> None:
        """Raises an error unless the caller may call the endpoint."""
        if caller.project_id != self.project_id:
            raise NotFoundError(
                "There is no such project, or this key is not one of its keys.", code=ErrorCode.PROJECT_NOT_FOUND
            )
        caller.check(KeyScope.INFERENCE)
        if caller.endpoint is not None and caller.endpoint != self.slug:
            raise PermissionDeniedError(f"This key may only call the endpoint `{caller.endpoint}`.")


def checked_endpoint(head: RequestHead, endpoint: Snapshot | None, now: float) -> Snapshot:
    """Returns the endpoint. Raises an error unless it can serve this route now."""
    if endpoint is None:
        raise NotFoundError(
            "There is no such endpoint in your project. GET /v1/endpoints lists yours.",
            code=ErrorCode.ENDPOINT_NOT_FOUND,
        )
    method = "GET" if head.reads_models else _ROUTES.get(head.route)
    if method is None:
        raise NotFoundError(f"An endpoint has no route {head.route}. Use one of {', '.join(_ROUTES)}.")
    if head.method != method:
        raise MethodNotAllowedError(f"{head.method} is not allowed here. Use {method}.", method)
    if endpoint.ends_at is not None and now >= endpoint.ends_at:
        raise refusals.recalled()
    if not endpoint.targets:
        raise refusals.unavailable(endpoint.status, endpoint.reason, endpoint.progress)
    if not head.reads_models and head.route not in endpoint.routes:
        raise refusals.not_served(head.route, endpoint.routes)
    return endpoint


def parsed(route: str, body: bytes, tier: Tier) -> InferenceRequest:
    """Parses the body. Raises InvalidRequestError if it is invalid for this route or exceeds a limit."""
    try:
        request = read(route, body)
    except BadInferenceRequestError as error:
        raise InvalidRequestError(str(error), param=error.param) from error
    refusals.check_size(request, tier)
    return request


def models_json(endpoint: Snapshot, wanted: str | None) -> bytes:
    """The served model, as OpenAI's list, or alone if it was requested by name."""
    owner, _, _ = (endpoint.served_name or "").partition("/")
    model: dict[str, Any] = {
        "id": endpoint.served_name,
        "object": "model",
        "created": endpoint.created_at,
        "owned_by": owner,
    }
    if wanted not in {None, endpoint.served_name}:
        raise NotFoundError(
            f"This endpoint does not serve the model `{wanted}`. It serves `{endpoint.served_name}`.",
            code=ErrorCode.MODEL_NOT_FOUND,
        )
    return json.dumps(model if wanted else {"object": "list", "data": [model]}).encode()


def too_slow(tier: Tier, *, in_stream: bool) -> GatewayTimeoutError:
    seconds = tier.stream_idle_timeout_seconds if in_stream else tier.request_timeout_seconds
    what = "paused for" if in_stream else "took longer than"
    return GatewayTimeoutError(f"The model {what} {seconds} s, the limit of the tier `{tier.slug}`.")
