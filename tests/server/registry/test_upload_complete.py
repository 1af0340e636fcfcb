"""POST /v1/uploads/{id}/complete."""

import asyncio

import httpx
import pytest

from conftest import Tenant
from modelshare.wire.uploads import digest_of_parts
from uploading import error_of, missing, open_upload, opening, processed, push, pushed, put, send, sha256, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_hands_the_files_over(owner: Tenant) -> None:
    upload = await push(owner.http, tiny_model())
    assert (upload["state"], upload["bytes_done"]) == ("completed", upload["bytes_total"])
    model = await processed(owner.http, upload)
    assert (model["status"], model["version"]) == ("ready", "1.0.0")
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions[:3] == ["model.ready", "upload.complete", "upload.open"]


async def test_completing_again_changes_nothing(owner: Tenant) -> None:
    upload = await push(owner.http, tiny_model())
    answers = await asyncio.gather(*(owner.http.post(f"/v1/uploads/{upload['id']}/complete") for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    await processed(owner.http, upload)
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).json()["state"] == "completed"
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert (actions.count("upload.complete"), actions.count("model.ready")) == (1, 1)


async def test_names_the_first_part_that_is_missing(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert error_of(answer, 409) == ("Part 0 of config.json (and 2 more) is missing. Send it, then complete again.")
    for n, k, data in list(missing(upload, files))[:2]:
        await put(owner.http, upload, n, k, data)
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert error_of(answer, 409) == "Part 0 of README.md is missing. Send it, then complete again."
    assert (await owner.http.get(f"/v1/models/{upload['model']}")).json()["status"] == "uploading"
    await send(owner.http, (await owner.http.get(f"/v1/uploads/{upload['id']}")).json(), files)
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200


async def test_an_empty_file_has_nothing_to_send(owner: Tenant) -> None:
    files = tiny_model() | {"empty.txt": b"", "also-empty.txt": b""}
    upload = await open_upload(owner.http, files)
    assert [file["parts"] for file in upload["files"]] == [1, 1, 1, 0, 0]
    model = await pushed(owner.http, files)
    assert model["status"] == "ready"
    again = await pushed(owner.http, files | {"README.md": b"changed"}, claims=True)
    assert (again["status"], again["version"]) == ("ready", "1.0.1")


async def test_not_after_cancel(owner: Tenant) -> None:
    upload = await open_upload(owner.http, tiny_model())
    await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert error_of(answer, 409) == "This upload is cancelled. Push again to open a new one."


async def test_other_projects_find_nothing(owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, files)
    error_of(await deployer.http.post(f"/v1/uploads/{upload['id']}/complete"), 404)
    error_of(await owner.http.post("/v1/uploads/x/complete"), 404)
    error_of(await anonymous.post(f"/v1/uploads/{upload['id']}/complete"), 401)
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "open"


async def test_publishes_what_its_owner_has_read_or_nothing(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, files)
    url = f"/v1/uploads/{upload['id']}/complete"
    [weights] = [file["n"] for file in upload["files"] if file["path"] == "model.safetensors"]
    digest = sha256(files["model.safetensors"])
    for wrong in ({"sha256": "0" * 64}, {"parts_sha256": "0" * 64}, {"sha256": digest, "parts_sha256": digest}):
        answer = await owner.http.post(url, json={"files": [{"n": weights, **wrong}]})
        assert "model.safetensors changed while it was being pushed" in error_of(answer, 409)
        assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "open"
    assert "no file 7" in error_of(await owner.http.post(url, json={"files": [{"n": 7, "sha256": digest}]}), 400)
    error_of(await owner.http.post(url, json={"files": [{"n": weights}]}), 400)
    assert (await put(owner.http, upload, weights, 0, files["model.safetensors"])).status_code == 200
    right = {"n": weights, "sha256": digest, "parts_sha256": digest_of_parts([digest])}
    assert (await owner.http.post(url, json={"files": [right]})).status_code == 200
    assert (await processed(owner.http, upload))["status"] == "ready"


async def test_a_file_that_the_project_stores_already_is_compared_as_well(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await pushed(owner.http, files, "another")
    again = (await owner.http.post("/v1/uploads", json=opening(files, claims=True))).json()
    assert (again["id"], {file["reused"] for file in again["files"]}) == (upload["id"], {True})
    url = f"/v1/uploads/{upload['id']}/complete"
    answer = await owner.http.post(url, json={"files": [{"n": 0, "sha256": "0" * 64}]})
    assert "changed while it was being pushed" in error_of(answer, 409)
    answer = await owner.http.post(url, json={"files": [{"n": 0, "parts_sha256": "0" * 64}]})
    assert "was taken from the project's storage" in error_of(answer, 409)
    assert (await owner.http.post(url)).status_code == 200


async def test_parts_may_come_again_after_a_completion_that_was_refused(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, files)
    url = f"/v1/uploads/{upload['id']}/complete"
    wrong = {"files": [{"n": 0, "sha256": "0" * 64}]}
    answers = await asyncio.gather(*(owner.http.post(url, json=wrong) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {409}
    other = tiny_model(seed=1)
    [weights] = [file["n"] for file in upload["files"] if file["path"] == "model.safetensors"]
    assert (await put(owner.http, upload, weights, 0, other["model.safetensors"])).status_code == 200
    assert (await owner.http.post(url)).status_code == 200
    assert (await processed(owner.http, upload))["status"] == "ready"


async def test_whoever_comes_second_with_other_bytes_is_told(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, files)
    url = f"/v1/uploads/{upload['id']}/complete"
    mine = [{"n": file["n"], "sha256": sha256(files[file["path"]])} for file in upload["files"]]
    by_parts = [{"n": each["n"], "parts_sha256": digest_of_parts([each["sha256"]])} for each in mine]
    other = [*mine[:-1], mine[-1] | {"sha256": "0" * 64}]
    assert (await owner.http.post(url, json={"files": mine})).status_code == 200
    for _ in range(2):  # while it is processed, and when its rows are gone
        for same in (mine, by_parts, mine[:1], []):
            assert (await owner.http.post(url, json={"files": same})).status_code == 200
        assert "Another push completed this upload" in error_of(await owner.http.post(url, json={"files": other}), 409)
        assert (await processed(owner.http, upload))["status"] == "ready"
