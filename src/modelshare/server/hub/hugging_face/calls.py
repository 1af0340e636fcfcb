"""Requests of Hugging Face clients, and their error responses."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import JSONResponse

from modelshare.server.http import Caller, Platform
from modelshare.server.hub.access import EndpointReader, Reader
from modelshare.wire.keys import Scope

MAX_BODY: Final = 16 << 20
"""Maximum bytes of a body that is read into memory."""
STREAMS: Final = 8
"""Files that a process streams concurrently to clients that cannot be redirected to a bucket."""
INVALID_TOKEN: Final = "Invalid credentials in Authorization header"  # noqa: S105 - words that clients look for
_NOT_FOUND: Final = (
    "Repository not found. A key reads the models of its own project and needs the scope `models`; an endpoint's token "
    "reads what the endpoint runs. Models in the catalog are not downloaded: deploy them."
)
_PLAIN: Final = {"Cache-Control": "no-store", "Vary": "Authorization"}


class HubError(Exception):
    """An error response. `code` determines which exception the client raises."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        commit: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        named = {"X-Error-Code": code, "X-Repo-Commit": commit, "X-Error-Message": in_header(message)}
        self.headers = {name: value for name, value in named.items() if value} | dict(headers or {})

    def response(self) -> JSONResponse:
        return answer({"error": self.message}, self.status, self.headers)


def no_repository(reader: Reader | None) -> HubError:
    """The same response for missing and forbidden repositories."""
    return HubError(404 if reader else 401, "RepoNotFound", _NOT_FOUND)


def no_revision(revision: str) -> HubError:
    return HubError(
        404, "RevisionNotFound", f"There is no revision `{revision[:100]}` of this model that you may read."
    )


def bad_request(message: str) -> HubError:
    return HubError(400, "BadRequest", message)


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(content, status, _PLAIN | dict(headers or {}))


def in_header(text: str) -> str:
    """The text on one line of ASCII."""
    return " ".join(text.split()).encode("ascii", "replace").decode()


def may_push(caller: Caller, owner: str) -> bool:
    """Whether the caller owns models of the project `owner` and may change them."""
    owns = caller.project_id is not None and owner.lower() in {caller.project_slug, caller.project_id}
    return owns and caller.allows(Scope.MODELS)


@dataclass
class State:
    """State of a process between requests."""

    registry: CollectorRegistry
    git_oids: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """Git object IDs of small files, by SHA-256."""
    pulls: OrderedDict[tuple[str, ...], float] = field(default_factory=OrderedDict)
    """When a pull was last audited, by reader, version and path."""
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STREAMS))

    def __post_init__(self) -> None:
        self.streamed = Counter(
            "modelshare_hub_streamed_bytes", "Bytes of weights sent by this server itself.", registry=self.registry
        )


@dataclass(frozen=True)
class HubCall:
    """A request and its sender."""

    request: Request
    platform: Platform
    state: State
    reader: Reader | None
    own_url: str
    """The platform's URL without a trailing slash."""

    @property
    def base_url(self) -> str:
        """The client's HF_ENDPOINT."""
        return f"{self.own_url}/hf"

    @property
    def known(self) -> Reader:
        if self.reader is None:
            raise no_repository(None)
        return self.reader

    def writer(self, owner: str) -> Caller:
        """The caller, if it may push models of the project `owner`. Raises HubError otherwise."""
        reader = self.known
        if isinstance(reader, EndpointReader):
            raise HubError(
                403, None, "An endpoint's token only reads. Push with a key of the project that owns the model."
            )
        if not may_push(reader, owner):
            raise no_repository(reader)
        return reader

    async def body(self, limit: int = MAX_BODY) -> bytes:
        data = bytearray()
        async for chunk in self.request.stream():
            data += chunk
            if len(data) > limit:
                raise HubError(413, None, f"The body is longer than {limit:,} bytes.")
        return bytes(data)

    async def json(self) -> dict[str, Any]:
        try:
            read = json.loads(await self.body() or b"{}")
        except (ValueError, RecursionError):
            read = None
        if not isinstance(read, dict):
            raise bad_request("The body must be a JSON object.")
        return read
