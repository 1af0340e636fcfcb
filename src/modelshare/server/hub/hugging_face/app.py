"""`/hf/…`: the Hub API for unmodified Hugging Face clients, with `HF_ENDPOINT=<platform>/hf` and a token.

Routes match the encoded path, since a revision is one segment even if it contains an encoded slash.
"""

import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeAlias
from urllib.parse import unquote

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelshare.server import outages
from modelshare.server.background import Chore
from modelshare.server.errors import ApiError, storage_answer, unavailable
from modelshare.server.http import Platform, bearer, client_address, own_url
from modelshare.server.hub.access import reader_of
from modelshare.server.hub.hugging_face import drafts, lfs, pull, push, xet
from modelshare.server.hub.hugging_face.calls import INVALID_TOKEN, HubCall, HubError, State, answer, no_repository
from modelshare.server.proven import proven
from modelshare.server.registry.uploads import ahead

PREFIX: Final = "/hf/"
Handler: TypeAlias = Callable[..., Awaitable[Response]]
GET: Final = frozenset({"GET", "HEAD"})
POST: Final = frozenset({"POST"})
PUT: Final = frozenset({"PUT"})
ROUTES: Final[Sequence[tuple[frozenset[str], str, Handler]]] = (
    (GET, "api/whoami-v2", pull.whoami),
    (GET, "api/models", pull.models),
    (GET, "api/models/{}/{}", pull.info),
    (GET, "api/models/{}/{}/revision/{}", pull.info),
    (GET, "api/models/{}/{}/tree/{}/*", pull.tree),
    (GET, "api/models/{}/{}/refs", pull.refs),
    (GET, "api/models/{}/{}/auth-check", pull.auth_check),
    (POST, "api/models/{}/{}/paths-info/{}", pull.paths_info),
    (POST, "api/repos/create", push.create),
    (POST, "api/validate-yaml", push.validate_yaml),
    (POST, "api/models/{}/{}/branch/{}", push.make_branch),
    (POST, "api/models/{}/{}/tag/{}", push.make_tag),
    (POST, "api/models/{}/{}/preupload/{}", push.preupload),
    (POST, "api/models/{}/{}/commit/{}", push.commit),
    (POST, "{}/{}/info/lfs/objects/batch", lfs.batch),
    (POST, "{}/{}/info/lfs/objects/verify", lfs.verify),
    (POST, "parts/{}/complete", lfs.complete),
    (PUT, "parts/{}/{}", lfs.part),
    (GET, "api/models/{}/{}/xet-write-token/{}", xet.write_token),
    (GET, "xet/{}/{}/{}/v1/chunks/default/{}", xet.chunk),
    (POST, "xet/{}/{}/{}/v1/xorb-grants/default/{}", xet.grant),
    (POST, "xet/{}/{}/{}/v1/xorb-commits/default/{}/grant/{}", xet.commit),
    (POST, "xet/{}/{}/{}/v1/xorbs/default/{}", xet.put_xorb),
    (POST, "xet/{}/{}/{}/v1/shards", xet.shard),
    (POST, "xet/{}/{}/{}/v2/shards", xet.shard),
    (GET, "v2/{}/{}/manifests/{}", pull.manifest),
    (GET, "{}/{}/resolve/{}/*", pull.resolve),
    (GET, "{}/{}/raw/{}/*", pull.raw),
)
"""Any other route responds like a missing repository. `commits` and `discussions` must stay missing: with them,
transformers would send a model's name to another service to have it converted."""
log = structlog.get_logger()


class HuggingFace:
    """The ASGI app."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._state = State(platform.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except HubError as error:
            response = error.response()
        except ApiError as error:
            response = _response_to(error)
        except Exception as error:  # noqa: BLE001 - nothing else answers it
            response = _unexpected(request, error)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        platform = self._platform
        secret = bearer(request.headers.get("authorization"))
        reader = await reader_of(platform, secret, client_address(request)) if secret else None
        call = HubCall(request, platform, self._state, reader, own_url(request, platform.settings))
        written = request.scope["raw_path"].decode("latin-1").partition(PREFIX)[2]
        segments = [unquote(segment) for segment in written.rstrip("/").split("/")]
        if secret and reader is None:
            raise HubError(401, "RepoNotFound", INVALID_TOKEN)
        if reader is not None:
            proven(request.scope)
        found = _handler(request.method, segments)
        if found is None:
            raise no_repository(reader)
        handler, given = found
        return await handler(call, *given)


def chores(platform: Platform) -> Iterator[Chore]:
    yield Chore("delete files that no upload took over", functools.partial(ahead.end_expired, platform))
    yield Chore("delete xorbs that are over", functools.partial(xet.end_expired, platform))
    yield Chore("forget unfinished commits", functools.partial(drafts.end_expired, platform))


def _handler(method: str, segments: Sequence[str]) -> tuple[Handler, list[str]] | None:
    """The route's handler and its arguments: the path's segments at `{}`, and the rest of the path at `*`."""
    for methods, pattern, handler in ROUTES:
        fixed = pattern.split("/")
        takes_rest = fixed[-1] == "*"
        count = len(fixed) - takes_rest
        if method not in methods or len(segments) < count or (len(segments) > count and not takes_rest):
            continue
        if all(part in {"{}", segment} for part, segment in zip(fixed[:count], segments, strict=False)):
            given = [segment for part, segment in zip(fixed[:count], segments, strict=False) if part == "{}"]
            return handler, [*given, *(["/".join(segments[count:])] if takes_rest else [])]
    return None


def _response_to(error: ApiError) -> Response:
    code = "RepoNotFound" if error.status == 404 else None  # noqa: PLR2004 - the status itself
    return HubError(error.status, code, error.message, headers=error.headers()).response()


def _unexpected(request: Request, error: Exception) -> Response:
    if (away := unavailable(error)) is not None:
        outages.report("a request failed", error, path=request.url.path)
        return _response_to(away)
    if (known := storage_answer(error)) is not None:
        return _response_to(known)
    log.error("request failed", path=request.url.path, method=request.method, exc_info=error)
    return answer({"error": "Something went wrong on our side. Give the operator the X-Request-Id."}, 500)
