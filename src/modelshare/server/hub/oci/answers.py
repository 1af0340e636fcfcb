"""Responses for OCI clients: errors, headers, and the authentication challenge."""

import re
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from modelshare.server.errors import ApiError, NotFoundError, UnauthenticatedError, answer_errors_as
from modelshare.server.storage.ranges import UnsatisfiableRangeError, parse_range
from modelshare.wire.errors import ErrorType

HEADERS: Final = {
    "Docker-Distribution-API-Version": "registry/2.0",
    "Cache-Control": "no-store",
    "Vary": "Authorization",
}
"""Sent with every response."""
_CODES: Final = {400: "UNSUPPORTED", 401: "UNAUTHORIZED", 403: "DENIED", 405: "UNSUPPORTED", 429: "TOOMANYREQUESTS"}
"""Error codes by status, for errors of other parts of the server."""
_LOG_IN: Final = (
    "Authentication required: log in with any user name, and a project's API key or an endpoint's token as the "
    "password."
)
_PLAIN: Final = re.compile(r"[a-z0-9._/-]{1,255}")


class UnknownError(NotFoundError):
    """`NAME_UNKNOWN`, `MANIFEST_UNKNOWN` or `BLOB_UNKNOWN`."""

    def __init__(self, oci_code: str, message: str) -> None:
        super().__init__(message)
        self.oci_code = oci_code


class LoginError(UnauthenticatedError):
    """Has no challenge, which would send the client back to the token route."""

    def headers(self) -> dict[str, str]:
        return {}


class TokenNeededError(UnauthenticatedError):
    """Challenges the client to fetch a token, for the repository if there is one."""

    def __init__(self, own_url: str, repository: str | None, message: str = _LOG_IN) -> None:
        super().__init__(message)
        host = own_url.partition("://")[2]
        scope = f',scope="repository:{repository}:pull"' if repository and _PLAIN.fullmatch(repository) else ""
        self._challenge = f'Bearer realm="{own_url}/v2/token",service="{host}"{scope}'

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": self._challenge}


class ReadOnlyError(ApiError):
    status: ClassVar[int] = 405
    type: ClassVar[ErrorType] = ErrorType.INVALID_REQUEST

    def __init__(self) -> None:
        super().__init__("This registry is read-only: publish a model with `modelshare push DIR --name NAME`.")

    def headers(self) -> dict[str, str]:
        return {"Allow": "GET, HEAD"}


class OciRoute(APIRoute):
    """A route with the headers and the error format that OCI clients expect."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            answer_errors_as(request, _error)
            response = await handle(request)
            response.headers.update(HEADERS)
            return response

        return handled


def content(request: Request, data: bytes, media_type: str, digest: str) -> Response:
    """All of `data`, or the range that was asked for."""
    headers = {"Docker-Content-Digest": digest, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
    try:
        part = parse_range(request.headers.get("range"), len(data))
    except UnsatisfiableRangeError:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    if part is None:
        return Response(data, media_type=media_type, headers=headers)
    headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return Response(data[part.start : part.stop], 206, headers, media_type)


def _error(error: ApiError) -> Response:
    code = error.oci_code if isinstance(error, UnknownError) else _CODES.get(error.status, "UNKNOWN")
    body = {"errors": [{"code": code, "message": error.message, "detail": None}]}
    return JSONResponse(body, error.status, {**HEADERS, **error.headers()})
