"""What processing refuses: one sentence, and nothing else is harmed."""

import io
import struct
import tarfile

import pytest

from conftest import ON_SQLITE, Tenant
from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from uploading import (
    broken_model,
    error_of,
    opening,
    processed,
    push_archive,
    pushed,
    send,
    sha256,
    stored_files,
    tar_of,
    tiny_model,
    wait_until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


def _safetensors(length: int, header: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + header


def _escaping_tar() -> bytes:
    return tar_of({"model.safetensors": tiny_model()["model.safetensors"], "../evil": b"evil"})


def _link_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("model.safetensors")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    return buffer.getvalue()


CONFIG = tiny_model()["config.json"]
WHOLE = tiny_model()["model.safetensors"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (tiny_model() | {"training.data": b"\x80\x02pickle"}, ["training.data", "pickle"]),
        ({"config.json": CONFIG, "model.safetensors": b"\x80\x04disguised"}, ["model.safetensors", "pickle"]),
        ({"config.json": CONFIG, "model.safetensors": WHOLE[:40]}, ["model.safetensors"]),
        ({"config.json": CONFIG, "model.safetensors": WHOLE[:-1]}, ["model.safetensors"]),
        ({"config.json": CONFIG, "model.safetensors": _safetensors(1 << 60)}, ["model.safetensors"]),
        ({"config.json": CONFIG, "model.safetensors": b""}, ["model.safetensors"]),
        ({"model.gguf": b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60)}, ["model.gguf"]),
    ],
    ids=["pickle", "disguised", "cut-header", "cut-data", "2^60", "empty", "gguf"],
)
@ON_SQLITE
async def test_content_is_refused_with_a_reason(owner: Tenant, files: dict[str, bytes], words: list[str]) -> None:
    good = await pushed(owner.http, tiny_model(), "good")
    model = await pushed(owner.http, files, "bad")
    assert model["status"] == "failed"
    assert model["manifest_digest"] is None
    for word in words:
        assert word in model["status_reason"]
    assert model["status_reason"].endswith(".")
    assert (await owner.http.get(f"/v1/models/{good['id']}")).json() == good
    entry = next(e for e in (await owner.http.get("/v1/audit")).json()["data"] if e["action"] == "model.failed")
    assert (entry["actor"], entry["reason"]) == ("system", model["status_reason"])
    error_of(await owner.http.post(f"/v1/models/{model['id']}/share"), 400)


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (_escaping_tar(), "'..'"),
        (_link_tar(), "model.safetensors"),
        (tar_of({"zeros.safetensors": bytes(200 << 20)}), "far more than its own size"),
        (tar_of(tiny_model())[:-20], "model.tar.gz is truncated"),
        (b"no archive at all" * 100, "model.tar.gz is damaged"),
        (tar_of({}), "contains no files"),
        (tar_of({"pytorch_model.bin": b"\x80\x02"}), "pickle"),
        (tar_of(tiny_model() | {"training.pt": b"PK\x03\x04"}), "training.pt is a Python pickle"),
        (tar_of({"config.json": CONFIG, "README.md": b"# Nothing"}), "no weights"),
    ],
    ids=["evil", "link", "bomb", "cut", "noise", "empty", "bin", "pt", "no-weights"],
)
@ON_SQLITE
async def test_archives_are_refused_with_a_reason(app: Application, owner: Tenant, archive: bytes, words: str) -> None:
    model = await processed(owner.http, await push_archive(owner.http, archive, "model.tar.gz"))
    assert model["status"] == "failed"
    assert words in model["status_reason"]
    assert not list((app.settings.data_dir / "unpacking").iterdir())
    assert not (app.settings.data_dir.parent / "evil").exists()
    await wait_until(lambda: sum(stored_files(app)) <= len(archive))


async def test_an_archive_that_unpacks_to_more_than_the_quota(app: Application, owner: Tenant) -> None:
    async with app.database.write() as session:
        (await session.get_one(ProjectRow, owner.project.id)).quota_bytes = 1_000_000
    archive = tar_of(tiny_model() | {"zeros.txt": bytes(1_000_001)})
    model = await processed(owner.http, await push_archive(owner.http, archive, "model.tar.gz"))
    assert (model["status"], "1,000,000 bytes" in model["status_reason"]) == ("failed", True), model["status_reason"]


async def test_an_archive_that_unpacks_to_more_than_the_disk_has_room_for(
    owner: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelshare.server.registry.processing.store_blobs.KEEP_FREE", 1 << 60)
    model = await processed(owner.http, await push_archive(owner.http, tar_of(tiny_model()), "model.tar.gz"))
    assert (model["status"], "the 0 bytes that are left" in model["status_reason"]) == ("failed", True)


async def test_bytes_that_are_not_those_announced(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    body = opening(files, claims=True)
    body["files"][1]["sha256"] = "0" * 64
    upload = (await owner.http.post("/v1/uploads", json=body)).json()
    await send(owner.http, upload, files)
    await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    model = await processed(owner.http, upload)
    digest = sha256(files["model.safetensors"])
    assert model["status_reason"] == (
        f"model.safetensors does not match its announced SHA-256: it has {digest}. Push it again."
    )
    again = await pushed(owner.http, files)
    assert (again["id"], again["status"], again["version"]) == (model["id"], "ready", "1.0.0")


async def test_a_failed_version_leaves_the_latest_alone(owner: Tenant) -> None:
    good = await pushed(owner.http, tiny_model())
    await pushed(owner.http, broken_model())
    after = (await owner.http.get(f"/v1/models/{good['id']}")).json()
    assert (after["status"], after["version"]) == ("ready", "1.0.0")
    versions = (await owner.http.get(f"/v1/models/{good['id']}/versions")).json()["data"]
    assert [(item["version"], item["status"]) for item in versions] == [("1.0.1", "failed"), ("1.0.0", "ready")]


async def test_what_was_good_of_a_refused_push_is_not_sent_again(owner: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files | {"weights.data": b"\x80\x02"})
    upload = (await owner.http.post("/v1/uploads", json=opening(files, claims=True))).json()
    assert all(file["reused"] for file in upload["files"])
    await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert (await processed(owner.http, upload))["status"] == "ready"


class TestWithPickles:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"models_allow_pickle": True})

    async def test_a_platform_may_allow_pickles(self, owner: Tenant) -> None:
        model = await pushed(owner.http, {"config.json": CONFIG, "pytorch_model.bin": b"\x80\x02pickle"})
        assert (model["status"], model["format"]) == ("ready", "pickle")
