"""POST /v1/models/{id}/revalidate."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from uploading import error_of, open_upload, push, pushed, tiny_model

pytestmark = pytest.mark.anyio


def _stored(app: Application, size: int) -> Path:
    [path] = [
        path
        for path in (app.settings.data_dir / "storage" / "blobs").rglob("*")
        if path.is_file() and path.stat().st_size == size
    ]
    return path


async def _judged(owner: Tenant, model_id: str, times: int) -> dict[str, Any]:
    """The model, once it was judged so often."""
    async with asyncio.timeout(20):
        while True:
            entries = (await owner.http.get("/v1/audit")).json()["data"]
            verdicts = [entry for entry in entries if entry["action"] in {"model.ready", "model.failed"}]
            if len(verdicts) >= times:
                return dict((await owner.http.get(f"/v1/models/{model_id}")).json())
            await asyncio.sleep(0.01)


async def _revalidate(owner: Tenant, model_id: str, times: int) -> dict[str, Any]:
    answer = await owner.http.post(f"/v1/models/{model_id}/revalidate")
    assert answer.status_code == 200, answer.text
    return await _judged(owner, model_id, times)


async def test_a_sound_model_stays_as_it_is(owner: Tenant) -> None:
    before = await pushed(owner.http, tiny_model())
    answer = await owner.http.post(f"/v1/models/{before['id']}/revalidate")
    assert answer.json()["status"] == "ready"
    assert await _judged(owner, before["id"], 2) == before


async def test_damage_is_found_named_and_gone_when_repaired(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    before = await pushed(owner.http, files)
    weights = _stored(app, len(files["model.safetensors"]))
    weights.write_bytes(files["model.safetensors"][:-1] + b"!")
    model = await _revalidate(owner, before["id"], 2)
    assert (model["status"], model["status_reason"]) == (
        "failed",
        "model.safetensors has been damaged in storage. Restore it there, or push it again.",
    )
    weights.write_bytes(files["model.safetensors"])
    assert await _revalidate(owner, before["id"], 3) == before


async def test_a_file_that_is_gone_is_named(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    before = await pushed(owner.http, files)
    _stored(app, len(files["config.json"])).unlink()
    model = await _revalidate(owner, before["id"], 2)
    assert model["status_reason"] == "config.json is no longer in storage. Restore it there, or push it again."


async def test_a_failed_model_is_judged_again(owner: Tenant) -> None:
    model = await pushed(owner.http, {"config.json": b"{}"})
    again = await _revalidate(owner, model["id"], 2)
    assert (again["status"], again["status_reason"]) == ("failed", model["status_reason"])


async def test_the_newest_failed_version_goes_first(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    await pushed(owner.http, {"config.json": b"{}"})
    await _revalidate(owner, model["id"], 3)
    entry = next(e for e in (await owner.http.get("/v1/audit")).json()["data"] if e["action"] == "model.failed")
    assert entry["details"]["version"] == "1.0.1"


async def test_while_it_is_processed_nothing_more_is_asked(owner: Tenant) -> None:
    upload = await push(owner.http, tiny_model())
    await asyncio.gather(*(owner.http.post(f"/v1/models/{upload['model']}/revalidate") for _ in range(3)))
    assert (await _judged(owner, upload["model"], 1))["status"] == "ready"


async def test_not_while_it_is_uploaded(owner: Tenant) -> None:
    upload = await open_upload(owner.http, tiny_model())
    answer = await owner.http.post(f"/v1/models/{upload['model']}/revalidate")
    assert "still being uploaded" in error_of(answer, 409)


async def test_only_for_the_owner(owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = await pushed(owner.http, tiny_model())
    error_of(await deployer.http.post(f"/v1/models/{model['id']}/revalidate"), 404)
    assert error_of(await owner.http.post("/v1/models/x/revalidate"), 400) == "Invalid model ID"
    error_of(await anonymous.post(f"/v1/models/{model['id']}/revalidate"), 401)
