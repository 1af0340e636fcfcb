"""POST /v1/uploads."""

import asyncio
from typing import Any

import httpx
import pytest

from conftest import Tenant, new_tenant, running
from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings
from uploading import broken_model, error_of, open_upload, opening, pushed, send, sha256, stored_files, tiny_model

pytestmark = pytest.mark.anyio


async def test_opens_a_session_for_a_new_model(owner: Tenant) -> None:
    files = tiny_model()
    answer = await owner.http.post("/v1/uploads", json=opening(files))
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["name"], upload["version"], upload["state"]) == ("tiny", "1.0.0", "open")
    assert (upload["bytes_total"], upload["bytes_done"]) == (sum(map(len, files.values())), 0)
    assert [(file["path"], file["parts"], file["parts_done"], file["reused"]) for file in upload["files"]] == [
        (path, 1, [], False) for path in files
    ]
    model = (await owner.http.get(f"/v1/models/{upload['model']}")).json()
    assert (model["name"], model["status"], model["version"]) == ("tiny", "uploading", "1.0.0")
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["target"]) == ("upload.open", f"upload:{upload['id']}")


@pytest.mark.usefixtures("running_app")
async def test_an_existing_name_takes_the_next_patch_version(owner: Tenant) -> None:
    first = await pushed(owner.http, tiny_model(), version="2.3.4")
    upload = await open_upload(owner.http, tiny_model(seed=1))
    assert (upload["model"], upload["version"]) == (first["id"], "2.3.5")
    model = (await owner.http.get(f"/v1/models/{first['id']}")).json()
    assert (model["status"], model["version"]) == ("ready", "2.3.4")


@pytest.mark.usefixtures("running_app")
async def test_a_version_that_exists_is_a_conflict(owner: Tenant) -> None:
    await pushed(owner.http, tiny_model())
    answer = await owner.http.post("/v1/uploads", json=opening(tiny_model(seed=1), version="1.0.0"))
    assert error_of(answer, 409) == (
        "The model tiny already has a version 1.0.0. Leave `version` out to push it as 1.0.1."
    )


async def test_a_version_being_uploaded_is_a_conflict(owner: Tenant) -> None:
    await open_upload(owner.http, tiny_model(), version="1.0.0")
    answer = await owner.http.post("/v1/uploads", json=opening({"other.gguf": b"x"}, version="1.0.0"))
    assert "Cancel its open upload" in error_of(answer, 409)


@pytest.mark.usefixtures("running_app")
async def test_a_failed_version_is_replaced(app: Application, owner: Tenant) -> None:
    failed = await pushed(owner.http, broken_model())
    assert failed["status"] == "failed"
    model = await pushed(owner.http, tiny_model())
    assert (model["id"], model["status"], model["version"]) == (failed["id"], "ready", "1.0.0")


async def test_the_same_push_goes_on_with_the_open_session(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, {path: files[path] for path in files})
    for fields in ({}, {"version": "1.0.0"}, {"claims": True}):
        answer = await owner.http.post("/v1/uploads", json=opening(files, **fields))
        assert answer.status_code == 200
        assert answer.json()["id"] == upload["id"]
        assert answer.json()["bytes_done"] == upload["bytes_total"]


async def test_another_push_of_the_same_name_is_another_version(owner: Tenant) -> None:
    upload = await open_upload(owner.http, tiny_model())
    other = await open_upload(owner.http, tiny_model(pad=7))
    assert other["id"] != upload["id"]
    assert (other["model"], other["version"]) == (upload["model"], "1.0.1")


@pytest.mark.usefixtures("running_app")
async def test_stored_files_are_not_sent_again(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files)
    before = stored_files(app)
    upload = await open_upload(owner.http, files, "copy", claims=True)
    assert all(file["reused"] for file in upload["files"])
    assert upload["bytes_done"] == upload["bytes_total"]
    assert await send(owner.http, upload, files) == 0
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    model = await pushed(owner.http, files, "copy", version="1.0.1", claims=True)
    assert model["status"] == "ready"
    assert stored_files(app) == before


@pytest.mark.usefixtures("running_app")
async def test_files_of_a_known_size_are_worth_hashing(owner: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files)
    changed = files | {"README.md": files["README.md"] + b"More.\n"}
    upload = await open_upload(owner.http, changed)
    assert upload["hash_candidates"] == ["config.json", "model.safetensors"]
    assert not any(file["reused"] for file in upload["files"])
    again = await open_upload(owner.http, changed, claims=True)
    assert again["id"] == upload["id"]
    assert [file["path"] for file in again["files"] if file["reused"]] == ["config.json", "model.safetensors"]


@pytest.mark.usefixtures("running_app")
async def test_files_of_another_project_are_neither_reused_nor_hinted_at(owner: Tenant, deployer: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files)
    upload = await open_upload(deployer.http, files)
    assert upload["hash_candidates"] == []
    claiming = await open_upload(deployer.http, files, "other", claims=True)
    assert not any(file["reused"] for file in claiming["files"])


@pytest.mark.usefixtures("running_app")
async def test_a_digest_with_another_size_is_not_reused(owner: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files)
    lie = {"path": "config.json", "size": 1, "sha256": sha256(files["config.json"])}
    weights = {"path": "model.safetensors", "size": 9}
    answer = await owner.http.post("/v1/uploads", json={"name": "other", "files": [lie, weights]})
    assert [file["reused"] for file in answer.json()["files"]] == [False, False]


async def _set_quota(app: Application, owner: Tenant, quota: int) -> None:
    async with app.database.write() as session:
        (await session.get_one(ProjectRow, owner.project.id)).quota_bytes = quota


async def test_the_quota_counts_before_the_first_byte(app: Application, owner: Tenant) -> None:
    await _set_quota(app, owner, 1000)
    assert (await owner.http.post("/v1/uploads", json=opening({"a.gguf": bytes(600)}, "one"))).status_code == 201
    answer = await owner.http.post("/v1/uploads", json=opening({"a.gguf": bytes(401)}, "two"))
    assert error_of(answer, 403).startswith(
        "This push needs 401 bytes, but your project has 400 bytes of its 1,000 bytes left."
    )
    assert answer.json()["error"]["code"] == "quota_exceeded"
    assert [model["name"] for model in await _models(owner)] == ["one"]
    assert (await owner.http.post("/v1/uploads", json=opening({"a.gguf": bytes(400)}, "two"))).status_code == 201


@pytest.mark.usefixtures("running_app")
async def test_the_quota_counts_what_is_stored_once(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    size = sum(map(len, files.values()))
    await pushed(owner.http, files)
    await _set_quota(app, owner, size + 10)
    assert (await open_upload(owner.http, files, "copy", claims=True))["bytes_done"] == size
    answer = await owner.http.post("/v1/uploads", json=opening({"a.gguf": bytes(11)}, "new"))
    assert "has 10 bytes of" in error_of(answer, 403)


async def test_a_file_larger_than_any_storage_is_refused(owner: Tenant) -> None:
    error_of(await owner.http.post("/v1/uploads", json=_one("model.gguf", size=1 << 52)), 403)
    error_of(await owner.http.post("/v1/uploads", json=_one("model.gguf", size=1 << 100)), 400)
    assert await _models(owner) == []


def _one(path: str, size: int = 5) -> dict[str, Any]:
    return {"name": "tiny", "files": [{"path": path, "size": size}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_one("../evil"), "'..'"),
        (_one("/etc/passwd"), "absolute path"),
        (_one("a\\b"), "backslash"),
        (_one("a//b"), "empty part"),
        (_one("nul.txt"), "device name"),
        (_one(".git/config"), "not part of a model"),
        ({"name": "tiny", "files": [{"path": "a", "size": 1}, {"path": "a", "size": 2}]}, "appears twice"),
        (
            {"name": "tiny", "files": [{"path": "a", "size": 1}, {"path": "a/b", "size": 2}]},
            "both a file and the folder",
        ),
        ({"name": "tiny", "archive": {"filename": "model.zip", "size": 5}}, "not a supported archive"),
        ({"name": "tiny", "archive": {"filename": "../model.tar", "size": 5}}, "'..'"),
        ({"name": "tiny", "archive": {"filename": "a/model.tar", "size": 5}}, "without its folder"),
        ({"name": "tiny", "files": []}, "`files`"),
        ({"name": "tiny"}, "either `files` or `archive`"),
        ({"name": "a--b", "files": [{"path": "a", "size": 1}]}, "`name`"),
        ({"name": "tiny", "files": [{"path": "a", "size": -1}]}, "`files.0.size`"),
        ({"name": "tiny", "version": "1.0", "files": [{"path": "a", "size": 1}]}, "`version`"),
        ({"name": "tiny", "files": [{"path": "a", "size": 1, "sha256": "xyz"}]}, "`files.0.sha256`"),
    ],
)
async def test_what_cannot_be_stored_is_refused_in_a_sentence(
    owner: Tenant, body: dict[str, Any], message: str
) -> None:
    answer = await owner.http.post("/v1/uploads", json=body)
    assert message in error_of(answer, 400)
    assert await _models(owner) == []


def _names(*paths: str, **fields: Any) -> dict[str, Any]:
    return {"name": "tiny", "files": [{"path": path, "size": 5} for path in paths], **fields}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_names("config.json", "README.md"), "no weights"),
        (_names("m.gguf", ".env"), ".env is left out of models (may hold a password or key)"),
        (_names("m.gguf", "a/wandb/x"), "a/wandb/x is left out of models (log of a training run)"),
        (_names("m.gguf", "training_args.bin"), "state of a training run"),
        (_names("m.gguf", "notes.md", exclude=["*.md"]), "notes.md is left out of models (as you asked)"),
        (_names("m-00001-of-00002.gguf"), "m-00002-of-00002.gguf is missing"),
        (_names("m-00001-of-00003.safetensors", "m-00003-of-00003.safetensors"), "m-00002-of-00003.safetensors"),
        (_names("config.json", "pytorch_model.bin"), "pytorch_model.bin is a Python pickle"),
        (_names("model.safetensors", "training.pt"), "training.pt is a Python pickle"),
        (_names("model.safetensors", "b.safetensor"), "Rename it to b.safetensors"),
        (_names("m.gguf", include=["!x"]), "`include.0`"),
        (_names("m.gguf", include=["x"] * 201), "`include`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_names_tell_is_refused_before_the_first_byte(
    owner: Tenant, body: dict[str, Any], message: str
) -> None:
    answer = await owner.http.post("/v1/uploads", json=body)
    assert message in error_of(answer, 400)
    assert await _models(owner) == []


async def test_what_is_included_by_name_is_taken(owner: Tenant) -> None:
    body = _names("m.gguf", ".env", "a/wandb/x", include=[".env", "wandb/"])
    assert (await owner.http.post("/v1/uploads", json=body)).status_code == 201


async def test_needs_a_key_with_the_scope(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    assert error_of(await anonymous.post("/v1/uploads", json=opening(tiny_model())), 401) == "Authentication required"
    key = (await owner.http.post("/v1/keys", json={"name": "k", "scopes": ["inference"]})).json()["key"]
    answer = await anonymous.post("/v1/uploads", json=opening(tiny_model()), headers={"Authorization": f"Bearer {key}"})
    assert "`models`" in error_of(answer, 403)


async def _models(owner: Tenant) -> list[dict[str, Any]]:
    return list((await owner.http.get("/v1/models?extended=true")).json()["data"])


async def test_a_project_has_so_many_uploads_open_and_no_more(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"uploads_open_per_project": 3}))
    async with running(app):
        owner, other = await new_tenant(app, "acme"), await new_tenant(app, "borg")
        opened = await asyncio.gather(
            *(owner.http.post("/v1/uploads", json=opening(tiny_model(), name=f"m{n}")) for n in range(5))
        )
        assert sorted(answer.status_code for answer in opened) == [201, 201, 201, 409, 409]
        [message, _] = [error_of(answer, 409) for answer in opened if answer.status_code == 409]
        assert "has 3 uploads open" in message
        first = next(answer.json() for answer in opened if answer.status_code == 201)
        resumed = await owner.http.post("/v1/uploads", json=opening(tiny_model(), name=first["name"]))
        assert (resumed.status_code, resumed.json()["id"]) == (200, first["id"]), "one that is open goes on"
        assert (await other.http.post("/v1/uploads", json=opening(tiny_model()))).status_code == 201
        assert (await owner.http.post(f"/v1/uploads/{first['id']}/cancel")).status_code == 200
        assert (await owner.http.post("/v1/uploads", json=opening(tiny_model(), name="next"))).status_code == 201


@pytest.mark.parametrize(("wanted", "given"), [(None, 64 << 20), (5 << 20, 5 << 20), (8 << 20, 8 << 20)])
async def test_a_client_may_ask_for_smaller_parts(owner: Tenant, wanted: int | None, given: int) -> None:
    upload = await open_upload(owner.http, tiny_model(), part_size=wanted)
    assert upload["part_size"] == given


async def test_a_session_that_is_resumed_keeps_the_size_of_its_parts(owner: Tenant) -> None:
    files = tiny_model()
    begun = await open_upload(owner.http, files)
    again = await open_upload(owner.http, files, part_size=8 << 20)
    assert (again["id"], again["part_size"]) == (begun["id"], 64 << 20)


@pytest.mark.parametrize("wanted", [0, -1, (5 << 20) - 1, (64 << 20) + 1, 2**70])
async def test_a_part_size_that_storage_cannot_have_is_refused(owner: Tenant, wanted: int) -> None:
    answer = await owner.http.post("/v1/uploads", json=opening(tiny_model(), part_size=wanted))
    assert "part_size" in error_of(answer, 400)
