"""Builds a wheel of the package that is running, whether it was installed from a wheel or from a checkout.

The same code always gives the same bytes, so that all processes serve a wheel with the same digest.
"""

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

import modelshare

_NAME: Final = "modelshare"
_DATA: Final = (
    "py.typed",
    "server/migrations/script.py.mako",
    "server/migrations/versions/*.py",
    "server/sharing/tiers.toml",
    "server/web/install/*.service",
    "server/web/install/*.sh",
    "server/web/install/*.txt",
    "server/web/static/*.*",
    "server/web/templates/**/*.html",
)
"""Files besides the modules of packages. Only what is named here is served: a checkout's folders may hold anything."""
_METADATA: Final = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_WHEEL: Final = b"Wheel-Version: 1.0\nGenerator: modelshare\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_TIMESTAMP: Final = (2020, 2, 2, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_building: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Wheel:
    filename: str
    content: bytes
    sha256: str


def wheel() -> Wheel:
    """The wheel, built on first use, which takes some tenths of a second."""
    with _building:
        return _built()


@cache
def _built() -> Wheel:
    package = distribution(_NAME)
    info = f"{_NAME}-{package.version}.dist-info"
    files = dict(sorted(_files(package, info)))
    record = f"{info}/RECORD"
    lines = [f"{name},sha256={_urlsafe(content)},{len(content)}" for name, content in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    content = _zipped(files)
    return Wheel(f"{_NAME}-{package.version}-py3-none-any.whl", content, hashlib.sha256(content).hexdigest())


def _files(package: Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    folder = Path(modelshare.__file__).parent
    for path in (*_modules(folder), *(path for pattern in _DATA for path in folder.glob(pattern))):
        yield f"{_NAME}/{path.relative_to(folder).as_posix()}", path.read_bytes()
    yield f"{info}/WHEEL", _WHEEL
    for name in _METADATA:
        text = package.read_text(name)
        if text is None:
            raise FileNotFoundError(f"The installation of modelshare has no {name}. Install it again.")
        yield f"{info}/{name}", text.encode()


def _modules(folder: Path) -> Iterator[Path]:
    """Modules of the package and of those in it. A folder that is no package is not entered."""
    yield from folder.glob("*.py")
    for inner in folder.iterdir():
        if (inner / "__init__.py").is_file():
            yield from _modules(inner)


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIMESTAMP)
            entry.external_attr = _MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, on every system
            archive.writestr(entry, content)
    return buffer.getvalue()


def _urlsafe(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
