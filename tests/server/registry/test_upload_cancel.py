"""POST /v1/uploads/{id}/cancel, and sessions whose time is over."""

import asyncio
import time

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.registry.uploads import expiry
from uploading import error_of, open_upload, push, pushed, put, send, stored_files, tiny_model, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_frees_the_bytes_and_the_name(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner.http, upload, files)
    assert len(stored_files(app)) == 3
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
    assert (answer.status_code, answer.json()["state"], answer.json()["bytes_done"]) == (200, "cancelled", 0)
    error_of(await owner.http.get(f"/v1/models/{upload['model']}"), 404)
    assert (await owner.http.get("/v1/models")).json()["data"] == []
    await wait_until(lambda: not stored_files(app))
    assert (await pushed(owner.http, files))["version"] == "1.0.0"


async def test_the_session_still_tells_what_became_of_it(owner: Tenant) -> None:
    upload = await open_upload(owner.http, tiny_model())
    for _ in range(2):
        answer = await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    seen = (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()
    assert (seen["state"], seen["name"], seen["version"], seen["files"]) == ("cancelled", "tiny", "1.0.0", [])
    actions = [entry["action"] for entry in (await owner.http.get("/v1/audit")).json()["data"]]
    assert actions.count("upload.cancel") == 1


async def test_other_versions_stay(owner: Tenant) -> None:
    model = await pushed(owner.http, tiny_model())
    upload = await open_upload(owner.http, tiny_model(seed=1))
    await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
    after = (await owner.http.get(f"/v1/models/{model['id']}")).json()
    assert (after["status"], after["version"]) == ("ready", "1.0.0")
    assert (await open_upload(owner.http, tiny_model(seed=2)))["version"] == "1.0.1"


async def test_files_that_other_versions_have_stay(app: Application, owner: Tenant) -> None:
    files = tiny_model()
    await pushed(owner.http, files)
    before = stored_files(app)
    changed = files | {"README.md": b"changed"}
    upload = await open_upload(owner.http, changed, claims=True)
    await send(owner.http, upload, changed)
    assert stored_files(app) != before
    await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
    await wait_until(lambda: stored_files(app) == before)


async def test_not_after_completion(owner: Tenant) -> None:
    upload = await push(owner.http, tiny_model())
    assert "Delete the model instead" in error_of(await owner.http.post(f"/v1/uploads/{upload['id']}/cancel"), 409)


async def test_parts_that_come_too_late_are_deleted(app: Application, owner: Tenant) -> None:
    files = {"model.gguf": bytes(4_000_000)}
    upload = await open_upload(owner.http, files)
    answers = await asyncio.gather(
        put(owner.http, upload, 0, 0, files["model.gguf"]), owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
    )
    assert answers[1].status_code == 200
    assert answers[0].status_code in {200, 409}
    await wait_until(lambda: not stored_files(app))


class Clock:
    """The time, with a way to let it pass."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_sessions_expire(app: Application, owner: Tenant, clock: Clock) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    clock.ahead = app.settings.uploads_expire_seconds - 60
    await expiry.end_expired(app.platform)
    await send(owner.http, upload, files)
    clock.ahead += 120
    await expiry.end_expired(app.platform)
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "open"
    clock.ahead += app.settings.uploads_expire_seconds
    await expiry.end_expired(app.platform)
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "expired"
    assert "expired" in error_of(await put(owner.http, upload, 0, 0, files["config.json"]), 409)
    assert (await owner.http.get("/v1/models")).json()["data"] == []
    entry = (await owner.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["actor"]) == ("upload.expire", "system")
    await wait_until(lambda: not stored_files(app))


async def test_other_projects_find_nothing(owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    upload = await open_upload(owner.http, tiny_model())
    error_of(await deployer.http.post(f"/v1/uploads/{upload['id']}/cancel"), 404)
    error_of(await anonymous.post(f"/v1/uploads/{upload['id']}/cancel"), 401)
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "open"
