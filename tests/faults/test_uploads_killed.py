"""The server killed with -9 while an upload comes in or is processed: after a restart all goes on."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from programs import Server, serving, wait_until
from unit.registry.samples import safetensors_file
from uploading import PART, error_of, opening, sha256, tar_of

BIG = 192 << 20
"""Bytes that take a while to write and to unpack."""


def _model(size: int) -> dict[str, bytes]:
    config = b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'
    return {"config.json": config, "model.safetensors": safetensors_file({"w": ("U8", [size])})}


@dataclass
class Site:
    """A data folder whose server comes and goes, and a project's key."""

    folder: Path
    settings: dict[str, str]
    key: str = ""

    def serving(self) -> Any:
        return serving(self.folder, platform_key="known", port=0, **self.settings)

    def http(self, server: Server) -> httpx.Client:
        if not self.key:
            self.key = server.project("acme").api_key
        return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def status(self) -> str:
        """Of the one version, as the database has it."""
        with sqlite3.connect(self.folder / "data" / "modelshare.db") as database:
            [(status,)] = database.execute("SELECT status FROM model_versions").fetchall()
        return str(status)

    def files(self, below: str) -> list[Path]:
        found = (Path(folder) / name for folder, _, names in os.walk(self.folder / "data" / below) for name in names)
        return list(found)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", {})


def _send(http: httpx.Client, upload: dict[str, Any], files: dict[str, bytes], limit: int = 1000) -> int:
    """Sends what is missing, up to so many parts; how many that were."""
    sent = 0
    for file in upload["files"]:
        for k in sorted(set(range(file["parts"])) - set(file["parts_done"])):
            if sent < limit:
                start = k * upload["part_size"]
                data = files[file["path"]][start : start + upload["part_size"]]
                url = f"/v1/uploads/{upload['id']}/files/{file['n']}/parts/{k}"
                answer = http.put(url, content=data, headers={"X-Checksum-SHA256": sha256(data)})
                assert answer.status_code == 200, answer.text
                sent += 1
    return sent


def _kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def _await_ready(http: httpx.Client, model_id: str) -> dict[str, Any]:
    def ready() -> dict[str, Any] | None:
        model = http.get(f"/v1/models/{model_id}").json()
        assert model["status"] != "failed", model["status_reason"]
        return dict(model) if model["status"] == "ready" else None

    return wait_until(ready, "the model is ready")


Moment = Callable[[Site], bool]
_MOMENTS: dict[str, Moment] = {
    "completed": lambda _: True,
    "put-together": lambda site: any(path.stat().st_size > BIG for path in site.files("storage/blobs")),
}


def _seen(site: Site, moment: Moment) -> str:
    """Whether the moment is there, or was missed because it is short."""
    is_over = site.status() == "ready"
    return "in time" if moment(site) else "too late" if is_over else ""


def _killed(folder: Path, sent: dict[str, bytes], request: dict[str, Any], moment: Moment) -> tuple[Site, str]:
    """A site whose server was killed at a moment of a model's processing, and that model's id."""
    for number in range(10):
        site = Site(folder / f"site-{number}", {})
        with site.serving() as server, site.http(server) as http:
            upload = http.post("/v1/uploads", json=request).json()
            _send(http, upload, sent)
            assert http.post(f"/v1/uploads/{upload['id']}/complete").status_code == 200
            seen = wait_until(partial(_seen, site, moment), "the moment to kill")
            _kill(server)
        if seen == "in time":
            break
    else:
        raise AssertionError("the moment was always missed")
    assert site.status() in {"processing", "ready"}  # what is left to do may be done before the kill comes
    return site, str(upload["model"])


@pytest.mark.parametrize("moment", _MOMENTS)
def test_processing_is_taken_up_again(tmp_path: Path, moment: str) -> None:
    files = _model(BIG)
    site, model_id = _killed(tmp_path, files, opening(files), _MOMENTS[moment])
    with site.serving() as server, site.http(server) as http:
        model = _await_ready(http, model_id)
        assert model["size_bytes"] == sum(map(len, files.values()))
        wait_until(lambda: len(site.files("storage")) == len(files), "nothing else is stored")


def test_unpacking_begins_again(tmp_path: Path) -> None:
    files = _model(BIG)
    archive = tar_of(files, mode="w")
    request = {"name": "tiny", "archive": {"filename": "model.tar", "size": len(archive)}}
    site, model_id = _killed(tmp_path, {"model.tar": archive}, request, lambda at: bool(at.files("unpacking")))
    with site.serving() as server, site.http(server) as http:
        model = _await_ready(http, model_id)
        assert model["size_bytes"] == sum(map(len, files.values()))
        wait_until(lambda: len(site.files("storage")) == len(files), "the archive is gone")
        assert site.files("unpacking") == []


def test_parts_that_were_answered_are_kept(site: Site) -> None:
    site.settings["uploads_part_size"] = str(PART)
    files = _model(3 * PART)
    with site.serving() as server, site.http(server) as http:
        upload = http.post("/v1/uploads", json=opening(files)).json()
        assert _send(http, upload, files, limit=3) == 3
        _kill(server)
    with site.serving() as server, site.http(server) as http:
        upload = http.get(f"/v1/uploads/{upload['id']}").json()
        assert [file["parts_done"] for file in upload["files"]] == [[0], [0, 1]]
        assert "Part 2 of model.safetensors" in error_of(http.post(f"/v1/uploads/{upload['id']}/complete"), 409)
        assert _send(http, upload, files) == 2
        assert http.post(f"/v1/uploads/{upload['id']}/complete").status_code == 200
        _await_ready(http, upload["model"])
