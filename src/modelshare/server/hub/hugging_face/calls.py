"""A request of a Hugging Face client, and how one is refused."""

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
"""Bytes of a body that is read as a whole."""
STREAMS: Final = 8
"""Files that a process sends at once itself, to clients that must not be sent to the bucket."""
INVALID_TOKEN: Final = "Invalid credentials in Authorization header"  # noqa: S105 - words that clients look for
_NOT_FOUND: Final = (
    "Repository not found. A key reads the models of its own project and needs the scope `models`; an endpoint's token "
    "reads what the endpoint runs. Models in the catalog are not downloaded: deploy them."
)
_PLAIN: Final = {"Cache-Control": "no-store", "Vary": "Authorization"}


class HubError(Exception):
    """An answer other than success. `code` decides what the client raises."""

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
    """The same for what is not there and for what the reader may not know of."""
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
    """On one line, and in the characters that a header takes."""
    return " ".join(text.split()).encode("ascii", "replace").decode()


def may_push(caller: Caller, owner: str) -> bool:
    """Whether the caller owns models of the project `owner` and may change them."""
    owns = caller.project_id is not None and owner.lower() in {caller.project_slug, caller.project_id}
    return owns and caller.allows(Scope.MODELS)


@dataclass
class State:
    """What a process remembers between requests."""

    registry: CollectorRegistry
    git_oids: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """Git's name of small files' contents, by SHA-256."""
    pulls: OrderedDict[tuple[str, ...], float] = field(default_factory=OrderedDict)
    """When a file was last audited for a reader."""
    streams: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(STREAMS))

    def __post_init__(self) -> None:
        self.streamed = Counter(
            "modelshare_hub_streamed_bytes", "Bytes of weights sent by this server itself.", registry=self.registry
        )


@dataclass(frozen=True)
class HubCall:
    """One request, and who sends it."""

    request: Request
    platform: Platform
    state: State
    reader: Reader | None
    own_url: str
    """The platform's, without a slash at the end."""

    @property
    def base_url(self) -> str:
        """What clients know as HF_ENDPOINT."""
        return f"{self.own_url}/hf"

    @property
    def known(self) -> Reader:
        if self.reader is None:
            raise no_repository(None)
        return self.reader

    def writer(self, owner: str) -> Caller:
        """The caller, who may push models of the project `owner`."""
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
