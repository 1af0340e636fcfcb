"""POST /v1/models/{id}/versions."""

import uuid
from typing import Any

import httpx
import pytest

from answers import problem
from conftest import Tenant
from modelshare.server.app import Application
from uploading import Files, error_of, opening, processed, push, pushed, send, tar_of, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


def spec(files: Files, **fields: Any) -> dict[str, Any]:
    """As POST /v1/uploads takes it, without the name."""
    return {name: value for name, value in opening(files, **fields).items() if name != "name"}


async def completed(http: httpx.AsyncClient, upload: dict[str, Any], files: Files) -> dict[str, Any]:
    """The model, once the version of this session was judged."""
    await send(http, upload, files)
    assert (await http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    return await processed(http, upload)


async def test_opens_a_session_for_the_next_version(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    files = tiny_model(seed=1)
    answer = await owner.http.post(f"/v1/models/{model['id']}/versions", json=spec(files))
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["model"], upload["name"], upload["version"], upload["state"]) == (
        model["id"], "tiny", "1.0.1", "open",
    )  # fmt: skip
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json() == upload | {"hash_candidates": []}
    assert (await completed(owner.http, upload, files))["version"] == "1.0.1"


async def test_the_version_may_be_named_and_need_not_become_the_latest(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    files = tiny_model(seed=1)
    body = spec(files, version="2.0.0", make_latest=False)
    upload = (await owner.http.post(f"/v1/models/{model['id']}/versions", json=body)).json()
    assert (await completed(owner.http, upload, files))["version"] == "1.0.0"
    promoted = await owner.http.post(f"/v1/models/{model['id']}/versions/2.0.0/promote")
    assert promoted.json()["version"] == "2.0.0"


async def test_an_archive_will_do(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    data = tar_of(tiny_model(seed=1))
    body = {"archive": {"filename": "model.tar.gz", "size": len(data)}}
    upload = (await owner.http.post(f"/v1/models/{model['id']}/versions", json=body)).json()
    assert (await completed(owner.http, upload, {"model.tar.gz": data}))["version"] == "1.0.1"


async def test_it_is_the_same_session_by_id_and_by_name(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    files = tiny_model(seed=1)
    by_name = (await owner.http.post("/v1/uploads", json=opening(files))).json()
    by_id = await owner.http.post(f"/v1/models/{model['id']}/versions", json=spec(files))
    assert (by_id.status_code, by_id.json()["id"]) == (200, by_name["id"])


async def test_a_renamed_model_is_found_by_its_id(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    await owner.http.patch(f"/v1/models/{model['id']}", json={"name": "renamed"})
    answer = await owner.http.post(f"/v1/models/{model['id']}/versions", json=spec(tiny_model(seed=1)))
    assert (answer.json()["model"], answer.json()["name"]) == (model["id"], "renamed")


async def test_a_version_that_exists_is_a_conflict(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    body = spec(tiny_model(seed=1), version="1.0.0")
    answer = await owner.http.post(f"/v1/models/{model['id']}/versions", json=body)
    assert error_of(answer, 409).endswith("Leave `version` out to push it as 1.0.1.")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"files": []},
        {"files": [{"path": "a", "size": 1}], "archive": {"filename": "a.tar", "size": 1}},
        {"files": [{"path": "../a", "size": 1}]},
        {"files": [{"path": "a", "size": -1}]},
        {"files": [{"path": "a", "size": 1}], "version": "one"},
        {"files": [{"path": "a", "size": 1}], "name": "other"},
        {"archive": {"filename": "a.rar", "size": 1}},
    ],
)
async def test_what_is_wrong_is_said(owner: Tenant, body: dict[str, Any]) -> None:
    model = await pushed(owner.http, tiny_model())
    answer = await owner.http.post(f"/v1/models/{model['id']}/versions", json=body)
    assert problem(answer)[:2] == (400, "invalid_request_error")
    assert [
        item["version"] for item in (await owner.http.get(f"/v1/models/{model['id']}/versions")).json()["data"]
    ] == ["1.0.0"]


@pytest.mark.parametrize("model_id", ["tiny", "1234", "%20"])
async def test_an_id_that_is_no_uuid(owner: Tenant, model_id: str) -> None:
    answer = await owner.http.post(f"/v1/models/{model_id}/versions", json=spec(tiny_model()))
    assert error_of(answer, 400) == "Invalid model ID"


async def test_anothers_model_looks_absent(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    answers = [
        await deployer.http.post(f"/v1/models/{one}/versions", json=spec(tiny_model())) for one in (model, uuid.uuid4())
    ]
    assert {problem(answer) for answer in answers} == {(404, "not_found_error", "model_not_found")}
    assert len({error_of(answer, 404) for answer in answers}) == 1
    assert (await deployer.http.get("/v1/uploads")).json()["data"] == []


async def test_needs_a_key(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = (await push(owner.http, tiny_model()))["model"]
    answer = await anonymous.post(f"/v1/models/{model}/versions", json=spec(tiny_model(seed=1)))
    assert error_of(answer, 401) == "Authentication required"
