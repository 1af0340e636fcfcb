"""Pulling into a folder, against a stand-in for platform and storage with the failures of real ones."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from agent.support import MIB, Storage, serving, some_bytes, wait_until
from modelshare.client import Client, PullError
from modelshare.client.pull import Pulled, pull
from modelshare.client.verify import UNFINISHED, verify_folder
from modelshare.transfer.partfile import PIECE
from modelshare.wire.agents import GrantFile
from modelshare.wire.models import Download

pytestmark = pytest.mark.anyio
FILES = {"model.gguf": some_bytes(PIECE + 7), "a/config.json": b"{}", "empty": b"", "a/copy.json": b"{}"}


@dataclass
class Platform:
    storage: Storage
    url: str
    asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        files = [
            GrantFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), url=self._url(path))
            for path, data in self.storage.files.items()
        ]
        found = Download(model="m", version="1.0.0", manifest_digest="sha256:1", files=files, expires_at=0)
        return web.json_response(text=found.model_dump_json())

    async def pull(self, folder: Path, *, overwrite: bool = False) -> Pulled:
        with Client(self.url, "key") as client:
            return await pull(client, "m", "1.0.0", folder, overwrite=overwrite)

    def _url(self, path: str) -> str:
        return f"{self.storage.url}/{self.storage.secret}/{path}"


@asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    storage = Storage()
    storage.files = dict(FILES)
    app = web.Application()
    found = Platform(storage, "")
    app.router.add_post("/v1/models/m/versions/1.0.0/download", found.answer)
    app.router.add_get("/{secret}/{path:.+}", storage.serve)
    async with serving(app) as found.url:
        storage.url = found.url
        yield found


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("range_support", ["206", "200+range", "whole"])
async def test_every_file_arrives_and_nothing_else_remains(tmp_path: Path, range_support: str) -> None:
    async with platform() as there:
        there.storage.range_support = range_support
        pulled = await there.pull(tmp_path / "new" / "folder")
        assert content(tmp_path / "new" / "folder") == FILES
        assert (pulled.files, pulled.kept, pulled.bytes_fetched) == (4, 0, PIECE + 7 + 2)
        mode = (tmp_path / "new" / "folder" / "empty").stat().st_mode & 0o777
        assert mode & 0o600 == 0o600


async def test_cut_connections_and_expired_urls_are_survived(tmp_path: Path) -> None:
    async with platform() as there:
        there.storage.cut_after = [3 * MIB, 0]
        requests = 0

        async def expire(path: str) -> None:
            nonlocal requests
            requests += path == "model.gguf"
            if path == "model.gguf" and requests == 2:
                there.storage.secret = "1"

        there.storage.on_request = expire
        await there.pull(tmp_path)
        assert content(tmp_path) == FILES
        assert there.asked == 2


async def test_an_interrupted_pull_resumes_and_another_cannot_run_beside_it(tmp_path: Path) -> None:
    async with platform() as there:
        there.storage.stall_from = PIECE
        running = asyncio.create_task(there.pull(tmp_path))
        journal = tmp_path / UNFINISHED / f"{hashlib.sha256(FILES['model.gguf']).hexdigest()}.pieces"
        await wait_until(lambda: journal.exists() and journal.read_bytes() != b"")
        await wait_until(lambda: (tmp_path / "a" / "copy.json").exists() and (tmp_path / "empty").exists())
        with pytest.raises(PullError, match="Another pull"):
            await there.pull(tmp_path)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        there.storage.stall.set()
        sent = there.storage.sent["model.gguf"]
        pulled = await there.pull(tmp_path)
        assert there.storage.sent["model.gguf"] - sent == pulled.bytes_fetched == 7
        assert content(tmp_path) == FILES


async def test_a_second_pull_fetches_only_what_is_missing_or_differs(tmp_path: Path) -> None:
    async with platform() as there:
        await there.pull(tmp_path)
        (tmp_path / "a" / "config.json").write_bytes(b"[]")
        (tmp_path / "empty").unlink()
        (tmp_path / "notes.txt").write_text("mine")
        there.storage.requests.clear()
        pulled = await there.pull(tmp_path)
        assert (pulled.kept, pulled.bytes_fetched) == (2, 2)
        assert set(there.storage.requests) <= {"a/config.json", "empty"}
        assert content(tmp_path) == {**FILES, "notes.txt": b"mine"}


async def test_files_that_are_something_else_are_replaced_only_when_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("of another program")
    async with platform() as there:
        with pytest.raises(PullError, match=r"config\.json exists and is not the model's"):
            await there.pull(tmp_path)
        assert content(tmp_path) == {"a/config.json": b"of another program"}
        assert not (tmp_path / UNFINISHED).exists()
        await there.pull(tmp_path, overwrite=True)
        assert content(tmp_path) == FILES


async def test_wrong_bytes_never_get_a_name(tmp_path: Path) -> None:
    async with platform() as there:
        there.storage.corrupt["model.gguf"] = 1000
        with pytest.raises(PullError, match="does not match its digest"):
            await there.pull(tmp_path)
        assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside", f"{UNFINISHED}/lock", "a\\b"])
async def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    async with platform() as there:
        there.storage.files[path] = b"x"
        with pytest.raises(PullError, match="cannot be stored"):
            await there.pull(tmp_path / "folder")
        assert list(tmp_path.iterdir()) == []


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with platform() as there:
        with pytest.raises(PullError, match="file"):
            await there.pull(tmp_path / "file")


def test_verifying_names_each_file_that_differs(tmp_path: Path) -> None:
    expected = [
        GrantFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), url="")
        for path, data in FILES.items()
    ]
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    assert not verify_folder(tmp_path, expected)
    (tmp_path / "a" / "config.json").write_bytes(b"[]")
    (tmp_path / "model.gguf").unlink()
    (tmp_path / "model.gguf").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").unlink()
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / ".hidden").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "extra")
    found = verify_folder(tmp_path, expected)
    assert found.differing == ["a/config.json", "model.gguf"]
    assert found.missing == ["empty"]
    assert found.extra == ["extra/.hidden", "link"]
