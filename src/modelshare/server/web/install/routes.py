"""`/install.sh` and `/dist/...`: the installer and what it downloads. Public, and the same for everybody."""

import asyncio
import hashlib
import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from fastapi import APIRouter, Depends, Request, Response

from modelshare.server.errors import NotFoundError
from modelshare.server.http import base_url, public_rate_limit
from modelshare.server.web.install.wheel import Wheel, wheel

_FOLDER: Final = Path(__file__).parent
_TEXT: Final = "text/plain; charset=utf-8"
_SCRIPT, _CLIENT, _AGENT = "install.sh", "requirements-client.txt", "requirements-agent.txt"
_SERVICE: Final = "modelshare-agent.service"

router = APIRouter(include_in_schema=False, dependencies=[Depends(public_rate_limit)])


class _File(NamedTuple):
    content: bytes
    sha256: str
    media_type: str = _TEXT


@router.get("/install.sh")
async def install_script(request: Request) -> Response:
    files = await asyncio.to_thread(_files, base_url(request))
    return _answer(request, files[_SCRIPT])


@router.get("/dist/{name}")
async def file(request: Request, name: str) -> Response:
    url = base_url(request)
    files = await asyncio.to_thread(_files, url)
    if name not in files or name == _SCRIPT:
        raise NotFoundError(f"There is no such file. This platform has {url}/dist/{wheel().filename}.")
    return _answer(request, files[name])


@lru_cache(maxsize=4)  # a platform without `public_url` has one for each address of the machine
def _files(url: str) -> Mapping[str, _File]:
    """Everything that is served, by name. It stays the same while the process runs."""
    built = wheel()
    client, agent = (_file(_requirements(name, url, built)) for name in (_CLIENT, _AGENT))
    values = {
        "@URL@": shlex.quote(url),
        "@WHEEL@": built.filename,
        "@WHEEL_SHA256@": built.sha256,
        "@CLIENT_SHA256@": client.sha256,
        "@AGENT_SHA256@": agent.sha256,
    }
    return {
        _SCRIPT: _file(_filled(_SCRIPT, values)),
        _CLIENT: client,
        _AGENT: agent,
        _SERVICE: _file(_filled(_SERVICE, {"@URL@": _in_unit(url)})),
        built.filename: _File(built.content, built.sha256, "application/octet-stream"),
    }


def _requirements(name: str, url: str, built: Wheel) -> bytes:
    """Everything with versions and digests; the last line is the platform's own wheel."""
    own = f"modelshare @ {url}/dist/{built.filename} --hash=sha256:{built.sha256}\n"
    return (_FOLDER / name).read_bytes() + own.encode()


def _filled(name: str, values: dict[str, str]) -> bytes:
    text = (_FOLDER / name).read_text(encoding="utf-8")
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text.encode()


def _in_unit(url: str) -> str:
    """Escaped for a unit file."""
    return url.replace("%", "%%").replace("$", "$$")


def _file(content: bytes) -> _File:
    return _File(content, hashlib.sha256(content).hexdigest())


def _answer(request: Request, served: _File) -> Response:
    """Caches ask every time: a release has new files under the same URLs."""
    headers = {"Cache-Control": "no-cache", "ETag": f'"{served.sha256}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(served.content, headers=headers, media_type=served.media_type)
