"""`/v2/`: the pull side of the OCI distribution protocol, https://github.com/opencontainers/distribution-spec.

Clients start without a credential, are challenged, and fetch a token for one repository. A key or an endpoint's token
is accepted in its place.
"""

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from modelshare.server.errors import KeySuspendedError
from modelshare.server.http import BaseUrl, Platform, PlatformDep, bearer, client_address
from modelshare.server.hub import access
from modelshare.server.hub.access import EndpointReader, ReadableModel, Reader
from modelshare.server.hub.oci import rules, service, tokens
from modelshare.server.hub.oci.answers import (
    LoginError,
    OciRoute,
    ReadOnlyError,
    TokenNeededError,
    UnknownError,
    content,
)
from modelshare.server.hub.oci.artifact import INDEX_TYPE, MANIFEST_TYPE
from modelshare.server.middleware import IS_HEAD
from modelshare.server.proven import proven
from modelshare.server.registry.storages import stores

FORM: Final = "oci"
TOKEN_SECONDS: Final = 12 * 3600
"""Validity of a key's token: longer than a pull, since clients do not renew one during a pull."""
ENDPOINT_SECONDS: Final = 30 * 86_400
"""The same for an endpoint's token, which also ends with the endpoint."""
INLINE: Final = 64 << 10
"""Maximum bytes of a file that is sent inline instead of redirecting."""
MAX_TAGS: Final = 1000
"""Per page."""
MAX_LOGIN: Final = 64 << 10
"""Maximum bytes of a token request's form."""
_OCTETS: Final = "application/octet-stream"

router = APIRouter(route_class=OciRoute, include_in_schema=False)
repositories = APIRouter(prefix="/v2/{owner}/{name}", route_class=OciRoute, include_in_schema=False)


async def _reader(request: Request, platform: PlatformDep, base_url: BaseUrl) -> Reader:
    """The sender; 401 with a challenge if the token is missing, invalid or for other repositories."""
    owner, name = request.path_params.get("owner"), request.path_params.get("name")
    repository = f"{owner}/{name}".lower() if owner else None
    secret = bearer(request.headers.get("authorization")) or ""
    token = tokens.read(secret, platform.settings.signing_secret(), platform.now())
    if token is not None and repository is not None and repository not in token.repositories:
        raise TokenNeededError(base_url, repository)
    address = client_address(request)
    try:
        if token is not None:
            reader = await access.reader_with(platform, token.credential, address)
        else:
            reader = await access.reader_of(platform, secret, address) if secret else None
    except KeySuspendedError as error:
        raise TokenNeededError(base_url, repository, error.message) from error
    if reader is None:
        raise TokenNeededError(base_url, repository)
    proven(request.scope)
    return reader


ReaderDep = Annotated[Reader, Depends(_reader)]


async def _repository(platform: PlatformDep, reader: ReaderDep, owner: str, name: str) -> ReadableModel:
    return await service.find_repository(platform, reader, owner, name)


RepositoryDep = Annotated[ReadableModel, Depends(_repository)]


@router.get("/v2/")
@router.get("/v2")
async def check(_: ReaderDep) -> Response:
    return JSONResponse({})


@router.get("/v2/token")
async def token_for_basic(request: Request, platform: PlatformDep) -> Response:
    """Issues a token for basic authentication."""
    return await _token(request, platform, _basic_secret(request), request.query_params.getlist("scope"))


@router.post("/v2/token")
async def token_for_form(request: Request, platform: PlatformDep) -> Response:
    """Issues a token for an OAuth 2 form. The form contains a secret, so it must not get into logs or responses."""
    form = parse_qs(await _body(request))
    secret = (form.get("password") or form.get("refresh_token") or [""])[0]
    return await _token(request, platform, secret, form.get("scope", []))


@repositories.get("/manifests/{reference}")
async def manifest(
    request: Request, platform: PlatformDep, reader: ReaderDep, found: RepositoryDep, reference: str
) -> Response:
    """Sends the manifest whatever the Accept header says, since there is no other format of it."""
    pulled = await service.find_manifest(platform, found, reference)
    if not _is_head(request):
        async with platform.database.write() as session:
            access.record_pull(session, reader, pulled.version, None, FORM, now=platform.now())
    headers = {"Docker-Content-Digest": pulled.digest, "ETag": f'"{pulled.digest}"'}
    return Response(pulled.manifest, media_type=MANIFEST_TYPE, headers=headers)


@repositories.get("/blobs/{digest}")
async def blob(
    request: Request,
    platform: PlatformDep,
    reader: ReaderDep,
    found: RepositoryDep,
    base_url: BaseUrl,
    digest: str,
) -> Response:
    """Sends the config or a small file inline; redirects to the storage for other files."""
    there = await service.find_blob(platform, found, digest)
    if _is_head(request):
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes", "Content-Length": str(there.size)}
        return Response(media_type=_OCTETS, headers=headers)
    file = there.file
    if file is None or there.version is None:
        return content(request, there.config, _OCTETS, digest)
    async with platform.database.write() as session:
        access.record_pull(session, reader, there.version, file, FORM, now=platform.now())
    if file.size <= INLINE:
        data = await stores.read_file(platform, file)
        return content(request, data, _OCTETS, digest)
    url = await access.download_url(platform, there.version, file, base_url=base_url)
    return RedirectResponse(url, 307, {"Docker-Content-Digest": digest})


@repositories.get("/tags/list")
async def tags(
    found: RepositoryDep, base_url: BaseUrl, n: Annotated[int, Query(ge=0)] = MAX_TAGS, last: str = ""
) -> Response:
    name = rules.repository_of(found.model.project.slug, found.model.name) or ""
    left = [tag for tag in service.tags_of(found) if tag > last]
    page = left[: min(n, MAX_TAGS)]
    answer = JSONResponse({"name": name, "tags": page})
    if page and len(page) < len(left):
        url = f"{base_url}/v2/{name}/tags/list?n={len(page)}&last={quote(page[-1])}"
        answer.headers["Link"] = f'<{url}>; rel="next"'
    return answer


@repositories.get("/referrers/{digest}")
async def referrers(_found: RepositoryDep, digest: str) -> Response:  # noqa: ARG001 - of every digest there are none
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    return JSONResponse(index, media_type=INDEX_TYPE)


router.include_router(repositories)


@router.api_route("/v2/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def other(request: Request) -> Response:
    """Pushes, and routes that do not exist, such as the list of all repositories."""
    if request.method != "GET":
        raise ReadOnlyError
    raise UnknownError(
        "UNSUPPORTED", "There is no such route. This registry has tokens, manifests, blobs, tags, referrers."
    )


async def _token(request: Request, platform: Platform, secret: str, scopes: list[str]) -> Response:
    credential = access.credential_of(secret)
    try:
        reader = await access.reader_with(platform, credential, client_address(request)) if secret else None
    except KeySuspendedError as error:
        raise LoginError(error.message) from error
    if reader is None:
        raise LoginError("The password is unknown, expired or revoked. Use a project's API key or an endpoint's token.")
    proven(request.scope)
    now = platform.now()
    expires_at = await _end_of_token(platform, reader, now)
    asked = rules.repositories_asked(scopes)
    token = tokens.signed(tokens.Token(credential, asked, expires_at), platform.settings.signing_secret())
    issued = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values: dict[str, Any] = {"token": token, "access_token": token, "expires_in": expires_at - now}
    return JSONResponse(values | {"issued_at": issued})


async def _end_of_token(platform: Platform, reader: Reader, now: int) -> int:
    if isinstance(reader, EndpointReader):
        async with platform.database.read() as session:
            ends = [await access.ends_at(session, reader), now + ENDPOINT_SECONDS]
    else:
        ends = [reader.expires_at, reader.value_expires_at, now + TOKEN_SECONDS]
    return min(end for end in ends if end is not None)


async def _body(request: Request) -> str:
    received = b""
    async for piece in request.stream():
        received += piece
        if len(received) > MAX_LOGIN:
            raise LoginError("The form that asks for a token is too long.")
    return received.decode("latin-1")


def _basic_secret(request: Request) -> str:
    """The password of basic authentication (RFC 7617); empty if there is none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode("latin-1").partition(":")[2]
    except ValueError:
        return ""


def _is_head(request: Request) -> bool:
    return bool(request.scope.get(IS_HEAD))
