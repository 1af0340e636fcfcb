"""POST /v1/models/{id}/revalidate."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from uploading import broken_model, error_of, open_upload, push, pushed, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


def _stored(app: Application, size: int) -> Path:
    [path] = [
        path
        for path in (app.settings.data_dir / "storage" / "blobs").rglob("*")
        if path.is_file() and path.stat().st_size == size
    ]
    return path


async def _judged(owner: Tenant, model_id: str, times: int) -> dict[str, Any]:
    """The model, once it was judged so often."""
    async with asyncio.timeout(60):
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
    model = await pushed(owner.http, broken_model())
    again = await _revalidate(owner, model["id"], 2)
    assert (again["status"], again["status_reason"]) == ("failed", model["status_reason"])


async def test_the_newest_failed_version_goes_first(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    await pushed(owner.http, broken_model())
    await _revalidate(owner, model["id"], 3)
    entry = next(e for e in (await owner.http.get("/v1/audit")).json()["data"] if e["action"] == "model.failed")
    assert entry["details"]["version"] == "1.0.1"


def _damage(app: Application, size: int) -> tuple[Path, bytes]:
    """Flips the last byte of the blob of this size: where it is, and what it held."""
    path = _stored(app, size)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    return path, sound


async def _versions(owner: Tenant, pads: dict[str, int]) -> tuple[str, dict[str, int]]:
    """A model pushed as these versions, each padded by so many bytes: its id, and the size of each one's weights."""
    sizes = {}
    for version, pad in pads.items():
        files = tiny_model(pad=pad)
        model = await pushed(owner.http, files, version=version)
        sizes[version] = len(files["model.safetensors"])
    return model["id"], sizes


async def _latest(owner: Tenant, model: str) -> str | None:
    versions = (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]
    return next((each["version"] for each in versions if each["is_latest"]), None)


async def test_the_version_before_takes_the_place_of_a_latest_that_fails(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model, sizes = await _versions(owner, {"1.0.0": 0, "2.0.0": 1000})
    await owner.http.post(f"/v1/models/{model}/share")
    spec = {"slug": "follows", "model": model, "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    before = (await owner.http.get(f"/v1/models/{model}")).json()
    path, sound = _damage(app, sizes["2.0.0"])
    after = await _revalidate(owner, model, 3)
    assert (after["version"], after["status"], after["is_listed"]) == ("1.0.0", "active", True)
    assert (after["catalog_role"], after["deployment_count"]) == ("shared", 1)
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).json()["version"] == "1.0.0"
    found = (await anonymous.get("/v1/catalog/models", params={"q": "tiny"})).json()["data"]
    assert [each["version"] for each in found] == ["1.0.0"]
    assert (await owner.http.get("/v1/endpoints/follows")).json()["resolved_version"] == "1.0.0"
    refused = error_of(await owner.http.post(f"/v1/models/{model}/versions/2.0.0/rollback"), 404)
    assert refused == "There is no ready version `2.0.0` of this model. Ready: 1.0.0."

    fell_back, failed = (await owner.http.get("/v1/audit")).json()["data"][:2]
    assert (failed["action"], failed["details"]["version"]) == ("model.failed", "2.0.0")
    assert (fell_back["action"], fell_back["actor"], fell_back["reason"]) == (
        "model.rollback",
        "system",
        failed["reason"],
    )
    assert failed["reason"].startswith("model.safetensors has been damaged")
    assert fell_back["details"] == {"name": "tiny", "version": "1.0.0", "before": "2.0.0"}
    path.write_bytes(sound)
    assert await _revalidate(owner, model, 4) == before, "repaired, it is the latest again"


async def test_explain_and_create_go_by_the_version_that_is_wanted(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model, sizes = await _versions(owner, {"1.0.0": 0, "2.0.0": 1000})
    await owner.http.post(f"/v1/models/{model}/share")
    _damage(app, sizes["2.0.0"])
    await _revalidate(owner, model, 3)
    spec = {"slug": "chat", "model": model, "tier": "self_hosted", "version": "2.0.0"}
    (reason,) = (await deployer.http.post("/v1/endpoints/explain", json=spec)).json()["reasons"]
    assert (reason["rule"], reason["message"]) == ("version", "The model has no ready version `2.0.0`.")
    assert reason["fix"] == "Choose `latest` or one of: 1.0.0."
    for version in ("latest", "1.0.0"):
        created = await deployer.http.post("/v1/endpoints", json=spec | {"slug": f"v{version[0]}", "version": version})
        assert created.json()["resolved_version"] == "1.0.0"


async def test_one_that_was_taken_back_does_not_come_back_before_the_one_before(
    app: Application, owner: Tenant
) -> None:
    model, sizes = await _versions(owner, {"1.0.0": 0, "2.0.0": 1000, "3.0.0": 2000})
    await owner.http.post(f"/v1/models/{model}/versions/2.0.0/rollback")
    _damage(app, sizes["2.0.0"])
    await _revalidate(owner, model, 4)
    assert await _latest(owner, model) == "1.0.0"


async def test_with_none_before_a_later_one_takes_its_place(app: Application, owner: Tenant) -> None:
    model, sizes = await _versions(owner, {"1.0.0": 0})
    await pushed(owner.http, tiny_model(pad=1000), version="2.0.0-beta", make_latest=False)
    _damage(app, sizes["1.0.0"])
    await _revalidate(owner, model, 3)
    assert await _latest(owner, model) == "2.0.0-beta"


async def test_a_shared_model_whose_only_version_fails_says_that_the_catalog_does_not_show_it(
    app: Application, owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model, sizes = await _versions(owner, {"1.0.0": 0})
    await owner.http.post(f"/v1/models/{model}/share")
    path, sound = _damage(app, sizes["1.0.0"])
    after = await _revalidate(owner, model, 2)
    assert (after["status"], after["is_shared"], after["is_listed"]) == ("failed", True, False)
    footprint = (await owner.http.get(f"/v1/models/{model}/catalog")).json()
    assert (footprint["is_shared"], footprint["is_listed"]) == (True, False)
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404
    refused = error_of(await owner.http.post(f"/v1/models/{model}/versions/1.0.0/rollback"), 404)
    assert refused == "There is no ready version `1.0.0` of this model. Ready: none."
    spec = {"slug": "chat", "model": model, "tier": "self_hosted"}
    (reason,) = (await deployer.http.post("/v1/endpoints/explain", json=spec)).json()["reasons"]
    assert reason["message"] == "The model is not ready: its status is `failed`."
    path.write_bytes(sound)
    assert (await _revalidate(owner, model, 3))["is_listed"] is True


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
