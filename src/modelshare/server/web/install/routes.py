"""`/install.sh` and `/dist/...`: the installer and what it downloads. Public, and the same for everybody."""

import asyncio
import hashlib
import shlex
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Depends, Request, Response

from modelshare.server.errors import NotFoundError
from modelshare.server.http import base_url, public_rate_limit
from modelshare.server.web.install.wheel import Wheel, wheel

_FOLDER: Final = Path(__file__).parent
_TEXT: Final = "text/plain; charset=utf-8"
_CLIENT, _AGENT, _SERVICE = "requirements-client.txt", "requirements-agent.txt", "modelshare-agent.service"

router = APIRouter(include_in_schema=False, dependencies=[Depends(public_rate_limit)])


@router.get("/install.sh")
async def install_script(request: Request) -> Response:
    built = await asyncio.to_thread(wheel)
    url = base_url(request)
    values = {
        "@URL@": shlex.quote(url),
        "@WHEEL@": built.filename,
        "@WHEEL_SHA256@": built.sha256,
        "@CLIENT_SHA256@": _sha256(_requirements(_CLIENT, url, built)),
        "@AGENT_SHA256@": _sha256(_requirements(_AGENT, url, built)),
    }
    return _answer(request, _filled("install.sh", values))


@router.get("/dist/{name}")
async def file(request: Request, name: str) -> Response:
    url = base_url(request)
    if name == _SERVICE:
        return _answer(request, _filled(name, {"@URL@": _in_unit(url)}))
    built = await asyncio.to_thread(wheel)
    if name in {_CLIENT, _AGENT}:
        return _answer(request, _requirements(name, url, built))
    if name == built.filename:
        return _answer(request, built.content, media_type="application/octet-stream")
    raise NotFoundError(f"There is no such file. This platform has {url}/dist/{built.filename}.")


def _requirements(name: str, url: str, built: Wheel) -> bytes:
    """Everything with versions and digests; the last line is the platform's own wheel."""
    own = f"modelshare @ {url}/dist/{built.filename} --hash=sha256:{built.sha256}\n"
    return _content(name) + own.encode()


def _filled(name: str, values: dict[str, str]) -> bytes:
    text = _content(name).decode()
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text.encode()


def _in_unit(url: str) -> str:
    """Escaped for a unit file."""
    return url.replace("%", "%%").replace("$", "$$")


def _answer(request: Request, content: bytes, media_type: str = _TEXT) -> Response:
    """Caches ask every time: a release has new files under the same URLs."""
    headers = {"Cache-Control": "no-cache", "ETag": f'"{_sha256(content)}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


@cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
