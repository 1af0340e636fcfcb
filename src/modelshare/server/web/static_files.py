"""Stylesheet, scripts and icons: read once, sent compressed, cached by browsers until they change.

A file's URL carries a digest of its content, so that a new release is a new URL.
"""

import functools
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from modelshare.server.errors import NotFoundError

PATH: Final = "/static"
_FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOREVER: Final = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    compressed: bytes
    media_type: str
    digest: str


@functools.cache
def _files() -> dict[str, _File]:
    found = {}
    for path in _FOLDER.iterdir():
        if media_type := _TYPES.get(path.suffix):
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:12]
            found[path.name] = _File(content, gzip.compress(content, 9, mtime=0), media_type, digest)
    return found


def url(name: str) -> str:
    """The URL of the file."""
    return f"{PATH}/{name}?v={_files()[name].digest}"


@router.get("/static/{name}")
async def static_file(request: Request, name: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise NotFoundError("There is no such file.")
    current = request.query_params.get("v") == file.digest
    headers = {
        "Cache-Control": _FOREVER if current else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)
