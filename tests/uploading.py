"""Pushes models with individual requests of the API."""

import asyncio
import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from safetensors.numpy import save

from modelshare.server.app import Application

Files = Mapping[str, bytes]
PART = 5 << 20
"""Bytes; the minimum that the settings allow."""


def tiny_model(*, seed: int = 0, pad: int = 0) -> dict[str, bytes]:
    """The smallest model that passes inspection; another `seed` gives other weights of the same size."""
    import numpy  # noqa: PLC0415, ICN001 - only these tests need it

    weights: dict[str, Any] = {"weight": numpy.full((4, 4), seed, dtype=numpy.float32)}
    if pad:
        weights["padding"] = numpy.random.default_rng(seed).integers(0, 255, pad, dtype=numpy.uint8)
    return {
        "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
        "model.safetensors": save(weights),
        "README.md": b"---\nlicense: apache-2.0\ntags: [tiny]\n---\nA tiny model for tests.\n",
    }


def broken_model() -> dict[str, bytes]:
    """A model with valid file names that is rejected when its contents are read."""
    return {"config.json": b"{}", "model.safetensors": b"cut"}


def tar_of(files: Files, *, mode: str = "w:gz", prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload] # the mode is a variable
        for path, data in files.items():
            entry = tarfile.TarInfo(prefix + path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def opening(files: Files, name: str = "tiny", *, claims: bool = False, **fields: Any) -> dict[str, Any]:
    entries = [
        {"path": path, "size": len(data)} | ({"sha256": sha256(data)} if claims else {}) for path, data in files.items()
    ]
    return {"name": name, "files": entries, **fields}


async def open_upload(http: httpx.AsyncClient, files: Files, name: str = "tiny", **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/uploads", json=opening(files, name, **fields))
    assert answer.status_code in {200, 201}, answer.text
    return dict(answer.json())


async def put(http: httpx.AsyncClient, upload: dict[str, Any], n: int, k: int, data: bytes) -> httpx.Response:
    url = f"/v1/uploads/{upload['id']}/files/{n}/parts/{k}"
    return await http.put(url, content=data, headers={"X-Checksum-SHA256": sha256(data)})


def missing(upload: dict[str, Any], files: Files) -> Iterator[tuple[int, int, bytes]]:
    """The missing parts: file, part, bytes."""
    for file in upload["files"]:
        for k in range(file["parts"]):
            if not file["reused"] and k not in file["parts_done"]:
                start = k * upload["part_size"]
                yield file["n"], k, files[file["path"]][start : start + upload["part_size"]]


async def send(http: httpx.AsyncClient, upload: dict[str, Any], files: Files) -> int:
    """Sends the missing parts; returns their number."""
    parts = list(missing(upload, files))
    for n, k, data in parts:
        answer = await put(http, upload, n, k, data)
        assert answer.status_code == 200, answer.text
    return len(parts)


async def push(http: httpx.AsyncClient, files: Files, name: str = "tiny", **fields: Any) -> dict[str, Any]:
    """The completed session; the model is being processed."""
    upload = await open_upload(http, files, name, **fields)
    await send(http, upload, files)
    answer = await http.post(f"/v1/uploads/{upload['id']}/complete")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def push_archive(http: httpx.AsyncClient, data: bytes, filename: str, name: str = "tiny") -> dict[str, Any]:
    archive = {"filename": filename, "size": len(data)}
    opened = await http.post("/v1/uploads", json={"name": name, "archive": archive})
    assert opened.status_code == 201, opened.text
    upload = opened.json()
    await send(http, upload, {filename: data})
    answer = await http.post(f"/v1/uploads/{upload['id']}/complete")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def processed(http: httpx.AsyncClient, upload: dict[str, Any]) -> dict[str, Any]:
    """Waits until the uploaded version is processed, and returns the model."""
    async with asyncio.timeout(60):
        while True:
            answer = await http.get(f"/v1/models/{upload['model']}/versions")
            assert answer.status_code == 200, answer.text
            [version] = [item for item in answer.json()["data"] if item["version"] == upload["version"]]
            if version["status"] not in {"uploading", "processing"}:
                return dict((await http.get(f"/v1/models/{upload['model']}")).json())
            await asyncio.sleep(0.01)


async def pushed(http: httpx.AsyncClient, files: Files, name: str = "tiny", **fields: Any) -> dict[str, Any]:
    """The model, pushed and processed."""
    return await processed(http, await push(http, files, name, **fields))


async def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is about files on disk
            await asyncio.sleep(0.01)


def stored_files(app: Application) -> list[int]:
    """Sizes of all files in the store, complete or not."""
    sizes = []
    for folder, _, names in os.walk(app.settings.data_dir / "storage"):
        for name in names if Path(folder).name != "parts" else ():
            with contextlib.suppress(FileNotFoundError):  # deleted concurrently
                sizes.append((Path(folder) / name).stat().st_size)
    return sorted(sizes)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def error_of(answer: httpx.Response, status: int) -> str:
    """The error message of a response that must have this status."""
    assert answer.status_code == status, answer.text
    message = str(answer.json()["error"]["message"])
    assert message.endswith(".") or message in {"Authentication required", "Invalid model ID"}
    return message
