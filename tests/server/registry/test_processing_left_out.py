"""What of an archive is left out, and what of the rest looks like a key."""

import io
import tarfile
from typing import Any

import pytest

from conftest import ON_SQLITE, Tenant
from uploading import processed, pushed, send, tar_of, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app"), ON_SQLITE]

SECRET = "ghp_" + "a1B2" * 9


async def push_archive(owner: Tenant, data: bytes, name: str = "tiny", **fields: Any) -> dict[str, Any]:
    archive = {"filename": "model.tar.gz", "size": len(data)}
    opened = await owner.http.post("/v1/uploads", json={"name": name, "archive": archive, **fields})
    assert opened.status_code == 201, opened.text
    upload = opened.json()
    await send(owner.http, upload, {"model.tar.gz": data})
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    return await processed(owner.http, upload)


async def paths_of(owner: Tenant, model: dict[str, Any]) -> set[str]:
    """The files of a ready model, by its manifest."""
    assert model["status"] == "ready", model["status_reason"]
    await owner.http.post(f"/v1/models/{model['id']}/share")
    manifest = (await owner.http.get(f"/v1/catalog/models/{model['id']}")).json()["manifest"]
    return {file["path"] for file in manifest["files"]}


def _with_links(prefix: str) -> bytes:
    """Beside the model a virtual environment, which has links out of the folder."""
    buffer = io.BytesIO(tar_of(tiny_model(), mode="w", prefix=prefix))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        entry = tarfile.TarInfo(f"{prefix}.venv/bin/python")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/usr/bin/python3"
        tar.addfile(entry)
    return buffer.getvalue()


@pytest.mark.parametrize("prefix", ["tiny/", "", "./", "runs/", ".model/"])
async def test_an_archive_gives_the_files_that_the_folder_would(owner: Tenant, prefix: str) -> None:
    rubbish = {
        ".git/config": b"[core]\n",
        ".git/objects/aa/bb": b"x",
        ".cache/huggingface/download/model.safetensors.metadata": b"x",
        "x.incomplete": b"x",
        "__pycache__/m.pyc": b"x",
        ".env": b"SECRET=1",
        "wandb/run/config.yaml": b"x",
        "._config.json": b"x",
    }
    kept = {".gitattributes": b"*.safetensors filter=lfs\n"}
    model = await push_archive(owner, tar_of(tiny_model() | rubbish | kept, prefix=prefix))
    assert await paths_of(owner, model) == {*tiny_model(), ".gitattributes"}
    [note] = [warning for warning in model["warnings"] if warning.startswith("Left out")]
    assert note.startswith("Left out: .env (may hold a password or key), wandb/ (log of a training run), ")
    assert ".git/ (hidden)" in note


async def test_links_and_devices_among_what_is_left_out_refuse_nothing(owner: Tenant) -> None:
    data = _with_links("tiny/")
    archive = {"filename": "model.tar", "size": len(data)}
    upload = (await owner.http.post("/v1/uploads", json={"name": "tiny", "archive": archive})).json()
    await send(owner.http, upload, {"model.tar": data})
    await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert await paths_of(owner, await processed(owner.http, upload)) == set(tiny_model())


async def test_a_name_that_is_not_utf8_of_what_is_left_out_is_told_readably(owner: Tenant) -> None:
    data = tar_of(tiny_model() | {".caf\udce9/x": b"x"})
    model = await push_archive(owner, data)
    assert model["status"] == "ready", model["status_reason"]
    assert model["warnings"] == ["Left out: .caf\\udce9/ (hidden)."]


async def test_an_archive_takes_patterns(owner: Tenant) -> None:
    files = tiny_model() | {"notes.md": b"x", "sub/notes.md": b"x", ".env": b"x", "wandb/a": b"x", "wandb/b": b"x"}
    model = await push_archive(
        owner, tar_of(files, prefix="tiny/"), exclude=["/notes.md"], include=["wandb/a", "/.env"]
    )
    assert await paths_of(owner, model) == {*tiny_model(), "sub/notes.md", ".env", "wandb/a"}
    assert "notes.md (as you asked)" in model["warnings"][-1]


@pytest.mark.parametrize("prefix", ["tiny/", ""])
async def test_an_ignore_file_in_an_archive_is_obeyed(owner: Tenant, prefix: str) -> None:
    ignore = {".modelshareignore": b"# ours\n*.log\n!keep.log\n!.env.example\n"}
    files = {"a.log": b"x", "keep.log": b"x", ".env.example": b"x", ".env": b"x"} | tiny_model() | ignore
    model = await push_archive(owner, tar_of(files, prefix=prefix))
    assert await paths_of(owner, model) == {*tiny_model(), "keep.log", ".env.example"}


async def test_an_ignore_file_that_is_none_is_refused(owner: Tenant) -> None:
    model = await push_archive(owner, tar_of(tiny_model() | {".modelshareignore": b"\xff\xfe"}))
    assert (model["status"], "not valid UTF-8" in model["status_reason"]) == ("failed", True)


async def test_the_same_archive_with_other_patterns_is_another_push(owner: Tenant) -> None:
    body: dict[str, Any] = {"name": "tiny", "archive": {"filename": "model.tar.gz", "size": 10}}
    one = (await owner.http.post("/v1/uploads", json=body | {"exclude": ["a"]})).json()
    again = (await owner.http.post("/v1/uploads", json=body | {"exclude": ["a"]})).json()
    other = (await owner.http.post("/v1/uploads", json=body)).json()
    assert one["id"] == again["id"] != other["id"]


async def test_what_looks_like_a_key_is_pointed_out_before_sharing(owner: Tenant) -> None:
    files = tiny_model() | {"sub/train.py": f"import x\n\nTOKEN = '{SECRET}'\n".encode()}
    model = await pushed(owner.http, files)
    assert model["status"] == "ready"
    [warning] = model["warnings"]
    assert warning.startswith("sub/train.py, line 3, appears to contain a GitHub token.")
    assert "a1B2" not in warning
    shared = (await owner.http.post(f"/v1/models/{model['id']}/share")).json()
    assert shared["warnings"] == [warning]
    assert SECRET not in (await owner.http.get("/v1/audit")).text
