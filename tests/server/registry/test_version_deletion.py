"""DELETE of a version: which may go, what it frees, who stands in the way, and what becomes of its number."""

import asyncio
import uuid

import httpx
import pytest
from sqlalchemy import select

from answers import message, problem
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from modelshare.server.fleet.tables import ServingRow
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.tables import VersionRow
from unit.registry.samples import llama_gguf
from uploading import error_of, open_upload, opening, pushed, stored_files, tiny_model, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
IN_USE = (409, "conflict_error", "version_in_use")


async def stored(app: Application, owner: Tenant) -> int:
    """Bytes that count against the quota."""
    async with app.database.read() as session:
        return await blobs.stored_bytes(session, owner.project.id)


async def versions(owner: Tenant, model: str | uuid.UUID) -> list[str]:
    return [each["version"] for each in (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]]


async def test_an_old_version_goes_and_the_quota_is_free_at_once(app: Application, owner: Tenant) -> None:
    old, new = tiny_model(pad=1000), tiny_model(pad=2000)
    model = (await pushed(owner.http, old))["id"]
    await pushed(owner.http, new, version="1.1.0")
    preview = (await owner.http.delete(f"/v1/models/{model}/versions/1.0.0?dry_run=true")).json()
    assert (preview["possible"], preview["reasons"]) == (True, [])
    assert preview["frees_bytes"] == len(old["model.safetensors"]), "what both have stays"
    assert "The number 1.0.0 cannot be used again" in preview["notes"][0]
    before = await stored(app, owner)
    assert (await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")).status_code == 204
    assert await stored(app, owner) == before - preview["frees_bytes"]
    assert await versions(owner, model) == ["1.1.0"]
    left = sorted(len(data) for data in new.values())
    await wait_until(lambda: stored_files(app) == left)
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["details"]["version"]) == ("model.delete_version", "1.0.0")
    gone = await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    assert problem(gone) == (404, "not_found_error", None)
    assert (await pushed(owner.http, tiny_model(seed=3)))["version"] == "1.1.1"


async def test_a_deleted_number_is_not_given_again(owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    await pushed(owner.http, tiny_model(seed=1), version="2.0.0")
    await pushed(owner.http, tiny_model(seed=2), version="3.0.0", make_latest=False)
    for version in ("1.0.0", "3.0.0"):
        assert (await owner.http.delete(f"/v1/models/{model}/versions/{version}")).status_code == 204
    again = await owner.http.post("/v1/uploads", json=opening(tiny_model(), version="1.0.0"))
    assert "had a version 1.0.0, which was deleted" in error_of(again, 409)
    assert (await open_upload(owner.http, tiny_model(seed=9)))["version"] == "3.0.1", "and no later number is guessed"


async def test_a_failed_version_goes_and_its_number_is_free(app: Application, owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    before = await stored(app, owner)
    broken = tiny_model(seed=1) | {"model.safetensors": b"\0" * 500}
    await pushed(owner.http, broken, version="1.1.0")
    assert await stored(app, owner) > before
    assert (await owner.http.delete(f"/v1/models/{model}/versions/1.1.0")).status_code == 204
    assert await stored(app, owner) == before
    assert (await pushed(owner.http, tiny_model(seed=1), version="1.1.0"))["version"] == "1.1.0"


async def test_with_its_only_version_a_model_goes(app: Application, owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model() | {"model.safetensors": b"\0" * 500}))["id"]
    preview = (await owner.http.delete(f"/v1/models/{model}/versions/1.0.0?dry_run=true")).json()
    assert preview["notes"] == ["It is the model's only version, so the model is deleted too."]
    assert (await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")).status_code == 204
    assert (await owner.http.get(f"/v1/models/{model}")).status_code == 404
    assert await stored(app, owner) == 0


async def test_deleting_a_version_under_way_cancels_its_upload(app: Application, owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    before = await stored(app, owner)
    upload = await open_upload(owner.http, tiny_model(seed=1, pad=100), version="2.0.0")
    assert (await owner.http.delete(f"/v1/models/{model}/versions/2.0.0")).status_code == 204
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "cancelled"
    assert (await versions(owner, model), await stored(app, owner)) == (["1.0.0"], before)


async def test_the_latest_stays(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    refused = await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    assert problem(refused) == IN_USE
    assert message(refused) == (
        "Version 1.0.0 cannot be deleted. It is the latest version. Promote another one, then delete it."
    )
    [entry] = (await owner.http.get("/v1/audit?outcome=refused")).json()["data"]
    assert (entry["action"], entry["target"]) == ("model.delete_version", f"model:{model}")
    assert entry["reason"] == message(refused)


async def test_what_endpoints_have_stays_and_others_are_counts(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    spec = {"model": str(model), "tier": "self_hosted"}
    await owner.http.post("/v1/endpoints", json={**spec, "slug": "mine", "version": "1.0.0"})
    await deployer.http.post("/v1/endpoints", json={**spec, "slug": "fixed", "version": "1.0.0"})
    await deployer.http.post("/v1/endpoints", json={**spec, "slug": "stays"})
    await owner.http.post(f"/v1/models/{model}/unshare")
    await add_version(app, model, "2.0.0")
    await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")
    refused = await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    assert problem(refused) == IN_USE
    assert "1 active endpoint of your project has it" in message(refused)
    assert "2 active endpoints of other projects have it" in message(refused)
    assert "borg" not in message(refused).lower()
    await owner.http.delete("/v1/endpoints/mine")
    await deployer.http.delete("/v1/endpoints/fixed")
    assert "1 active endpoint of other projects has it" in message(
        await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    )
    await deployer.http.patch("/v1/endpoints/stays", json={"is_active": False})
    assert (await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")).status_code == 204
    assert (await deployer.http.get("/v1/endpoints/stays")).json()["resolved_version"] is None


async def test_what_still_answers_stays(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    spec = {"model": str(model), "tier": "self_hosted", "slug": "follows"}
    endpoint = (await owner.http.post("/v1/endpoints", json=spec)).json()["id"]
    await add_version(app, model, "2.0.0")
    await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")
    async with app.database.write() as session:
        old = await session.scalar(select(VersionRow.id).where(VersionRow.version == "1.0.0"))
        session.add(ServingRow(endpoint_id=uuid.UUID(endpoint), version_id=old))
    refused = await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    assert "1 active endpoint still answers with it" in message(refused)


async def test_an_endpoint_that_stays_for_its_file_has_the_version(owner: Tenant, deployer: Tenant) -> None:
    quantized = {
        f"{name}/model.gguf": llama_gguf(**{"general.file_type": kind}) for name, kind in (("Q4", 15), ("Q8", 7))
    }
    model = (await pushed(owner.http, quantized))["id"]
    await owner.http.post(f"/v1/models/{model}/share")
    spec = {"model": model, "tier": "self_hosted", "slug": "eight", "file": "Q8/model.gguf"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    await pushed(owner.http, {"Q4/model.gguf": quantized["Q4/model.gguf"]})
    assert (await deployer.http.get("/v1/endpoints/eight")).json()["resolved_version"] == "1.0.0"
    refused = await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    assert problem(refused) == IN_USE
    assert "1 active endpoint of other projects has it" in message(refused)
    assert (await deployer.http.patch("/v1/endpoints/eight", json={"file": None})).status_code == 200
    assert (await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")).status_code == 204


async def test_an_upload_under_way_does_not_count_as_another_version(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    """Cancelled, it would take the model with it, and with that the endpoints of others."""
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    await deployer.http.post("/v1/endpoints", json={"model": str(model), "tier": "self_hosted", "slug": "chat"})
    async with app.database.write() as session:
        version = (await session.scalars(select(VersionRow))).one()
        version.status, version.is_latest = "failed", False
    upload = await open_upload(owner.http, tiny_model(seed=1), version="2.0.0")
    refused = await owner.http.delete(f"/v1/models/{model}/versions/1.0.0")
    assert "It is the only version of a model that is shared or in use" in message(refused)
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")).status_code == 200
    assert (await deployer.http.get("/v1/endpoints/chat")).json()["model"] == str(model)


async def test_nothing_goes_while_a_recall_runs(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "2.0.0")
    recall = {"deadline": 4_000_000_000, "reason": "Licence."}
    assert (await owner.http.post(f"/v1/models/{model}/recall", json=recall)).status_code == 200
    assert "being recalled" in message(await owner.http.delete(f"/v1/models/{model}/versions/2.0.0"))
    await owner.http.post(f"/v1/models/{model}/recall", json={"deadline": None})
    assert (await owner.http.delete(f"/v1/models/{model}/versions/2.0.0")).status_code == 204


async def test_anothers_looks_absent(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id)
    await add_version(app, model, "2.0.0")
    await owner.http.post(f"/v1/models/{model}/share")
    for dry_run in ("", "?dry_run=true"):
        answer = await deployer.http.delete(f"/v1/models/{model}/versions/2.0.0{dry_run}")
        assert problem(answer) == (404, "not_found_error", "model_not_found")
    assert (await anonymous.delete(f"/v1/models/{model}/versions/2.0.0")).status_code == 401
    assert await versions(owner, model) == ["2.0.0", "1.0.0"]


async def test_promoted_and_deleted_at_once_one_of_the_two_happens(app: Application, owner: Tenant) -> None:
    model = await make_model(app, owner.project.id)
    for number in range(1, 6):
        await add_version(app, model, f"1.{number}.0")
        path = f"/v1/models/{model}/versions/1.{number}.0"
        promoted, deleted = await asyncio.gather(owner.http.post(f"{path}/promote"), owner.http.delete(path))
        assert (promoted.status_code, deleted.status_code) in {(200, 409), (404, 204)}
        latest = (await owner.http.get(f"/v1/models/{model}")).json()["version"]
        assert (latest == f"1.{number}.0") == (promoted.status_code == 200)
