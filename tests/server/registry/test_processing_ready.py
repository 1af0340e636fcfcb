"""From completed to ready: hashes, manifest, what the model's card says, blobs stored once."""

import hashlib
import json

import pytest

from conftest import Tenant
from modelshare.server.app import Application
from uploading import processed, push, push_archive, pushed, sha256, stored_files, tar_of, tiny_model, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def _manifest(app: Application, digest: str) -> dict[str, object]:
    async with app.database.read() as session:
        rows = await session.connection()
        found = (await rows.exec_driver_sql("SELECT manifest, manifest_digest FROM model_versions")).all()
    [manifest] = [bytes(manifest) for manifest, known in map(tuple, found) if known == digest]
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == digest
    return dict(json.loads(manifest))


async def test_a_directory_becomes_ready_with_its_facts_and_manifest(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    model = await pushed(owner.http, files)
    size = sum(map(len, files.values()))
    assert (model["status"], model["format"], model["architecture"]) == ("ready", "safetensors", "LlamaForCausalLM")
    assert (model["parameters"], model["size_bytes"], model["version"]) == (16, size, "1.0.0")
    manifest = await _manifest(app, model["manifest_digest"])
    assert (manifest["name"], manifest["version"], manifest["total_bytes"]) == ("tiny", "1.0.0", size)
    assert manifest["license"] == "apache-2.0"
    assert manifest["files"] == [
        {"path": path, "size": len(files[path]), "sha256": sha256(files[path])} for path in sorted(files)
    ]


async def test_the_card_fills_what_people_read(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    assert (model["license"], model["tags"]) == ("apache-2.0", ["tiny"])
    assert model["description"] == model["card"] == "A tiny model for tests."


async def test_a_later_card_replaces_what_its_owner_has_not_edited(owner: Tenant) -> None:
    files = tiny_model()
    model = await pushed(owner.http, files)
    await owner.http.patch(f"/v1/models/{model['id']}", json={"description": "Mine.", "tags": []})
    later = files | {"README.md": b"---\nlicense: mit\ntags: [new]\n---\nAnother text.\n"}
    model = await pushed(owner.http, later)
    assert (model["version"], model["license"], model["card"]) == ("1.0.1", "mit", "Another text.")
    assert (model["description"], model["tags"]) == ("Mine.", [])


async def test_a_version_that_is_not_to_be_latest(owner: Tenant) -> None:
    await pushed(owner.http, tiny_model())
    model = await pushed(owner.http, tiny_model(seed=1) | {"README.md": b"Beta."}, make_latest=False)
    assert (model["version"], model["card"]) == ("1.0.0", "A tiny model for tests.")
    versions = (await owner.http.get(f"/v1/models/{model['id']}/versions")).json()["data"]
    assert [(item["version"], item["status"], item["is_latest"]) for item in versions] == [
        ("1.0.1", "ready", False),
        ("1.0.0", "ready", True),
    ]


async def test_the_same_bytes_are_stored_once(app: Application, owner: Tenant) -> None:
    files = tiny_model() | {"copy/config.json": tiny_model()["config.json"]}
    await pushed(owner.http, files, "one")
    once = sorted(len(data) for data in set(files.values()))
    await wait_until(lambda: stored_files(app) == once)
    assert (await pushed(owner.http, files, "two"))["status"] == "ready"
    await wait_until(lambda: stored_files(app) == once)


async def test_two_pushes_of_the_same_bytes_at_once(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    uploads = [await push(owner.http, files, name) for name in ("one", "two", "three")]
    assert [(await processed(owner.http, upload))["status"] for upload in uploads] == ["ready"] * 3
    await wait_until(lambda: stored_files(app) == sorted(map(len, files.values())))


async def test_projects_share_no_bytes(app: Application, owner: Tenant, deployer: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files)
    await pushed(deployer.http, files)
    assert stored_files(app) == sorted([*map(len, files.values())] * 2)


@pytest.mark.parametrize("name", ["model.tar", "model.tar.gz", "model.tar.bz2"])
@pytest.mark.parametrize("prefix", ["", "tiny/"])
async def test_an_archive_is_unpacked(app: Application, owner: Tenant, name: str, prefix: str) -> None:
    files = tiny_model() | {"onnx/notes.txt": b"notes"}
    mode = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2"}[name.rpartition(".")[2]]
    upload = await push_archive(owner.http, tar_of(files, mode=mode, prefix=prefix), name)
    model = await processed(owner.http, upload)
    assert (model["status"], model["size_bytes"]) == ("ready", sum(map(len, files.values())))
    manifest = await _manifest(app, model["manifest_digest"])
    assert [file["path"] for file in manifest["files"]] == sorted(files)  # type: ignore[attr-defined] # JSON
    await wait_until(lambda: stored_files(app) == sorted(map(len, files.values())))
    assert not list((app.settings.data_dir / "unpacking").iterdir())


async def test_deleting_a_model_frees_what_no_other_has(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    one = await pushed(owner.http, files, "one")
    two = await pushed(owner.http, files | {"README.md": b"Two."}, "two")
    assert (await owner.http.delete(f"/v1/models/{one['id']}")).status_code == 204
    kept = sorted(map(len, (files | {"README.md": b"Two."}).values()))
    await wait_until(lambda: stored_files(app) == kept)
    assert (await owner.http.delete(f"/v1/models/{two['id']}")).status_code == 204
    await wait_until(lambda: not stored_files(app))


async def test_deleting_a_model_that_is_coming_in(app: Application, owner: Tenant) -> None:
    upload = await push(owner.http, tiny_model(), "whole")
    assert (await owner.http.delete(f"/v1/models/{upload['model']}")).status_code == 204
    await wait_until(lambda: not stored_files(app))
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "completed"


async def test_a_blob_taken_up_by_a_session_is_kept_for_it(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    first = await pushed(owner.http, files, "first")
    upload = (await owner.http.post("/v1/uploads", json=_claims(files, "second"))).json()
    await owner.http.delete(f"/v1/models/{first['id']}")
    await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert (await processed(owner.http, upload))["status"] == "ready"
    assert stored_files(app) == sorted(map(len, files.values()))


def _claims(files: dict[str, bytes], name: str) -> dict[str, object]:
    entries = [{"path": path, "size": len(data), "sha256": sha256(data)} for path, data in files.items()]
    return {"name": name, "files": entries}
