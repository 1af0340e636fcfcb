"""Which pushed version becomes the latest, where that is said, and notes of versions."""

from typing import Any

import httpx
import pytest

from answers import problem
from conftest import Tenant
from uploading import open_upload, processed, push, pushed, send, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
STAYS = "`latest` stays at 1.10.0, because {} is {}. Promote {} to make it the latest."


async def versions(owner: Tenant, model: str) -> dict[str, dict[str, Any]]:
    listed = (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]
    return {each["version"]: each for each in listed}


async def latest(owner: Tenant, model: str) -> str | None:
    return next((name for name, each in (await versions(owner, model)).items() if each["is_latest"]), None)


@pytest.mark.parametrize(("version", "why"), [("1.2.0", "not higher"), ("2.0.0-rc.1", "a pre-release")])
async def test_what_is_lower_or_a_pre_release_is_not_the_latest_and_says_so(
    owner: Tenant, version: str, why: str
) -> None:
    model = (await pushed(owner.http, tiny_model(), version="1.10.0"))["id"]
    note = STAYS.format(version, why, version)
    upload = await push(owner.http, tiny_model(seed=1), version=version)
    assert upload["latest_note"] == note
    await processed(owner.http, upload)
    told = (await versions(owner, model))[version]
    assert (told["is_latest"], told["latest_note"], await latest(owner, model)) == (False, note, "1.10.0")
    entry = (await owner.http.get("/v1/audit?action=model.ready")).json()["data"][0]
    assert (entry["details"]["latest"], entry["details"]["latest_note"]) == (False, note)
    await owner.http.post(f"/v1/models/{model}/share")
    public = (await owner.http.get(f"/v1/catalog/models/{model}")).json()["versions"]
    assert {each["version"]: each["latest_note"] for each in public} == {version: None, "1.10.0": None}
    promoted = await owner.http.post(f"/v1/models/{model}/versions/{version}/promote")
    assert promoted.json()["version"] == version
    assert (await versions(owner, model))[version]["latest_note"] is None


async def test_a_push_may_say_so_itself(owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model(), version="2.0.0"))["id"]
    await pushed(owner.http, tiny_model(seed=1), version="1.0.0", make_latest=True)
    assert await latest(owner, model) == "1.0.0"
    await pushed(owner.http, tiny_model(seed=2), version="3.0.0", make_latest=False)
    assert await latest(owner, model) == "1.0.0"
    await pushed(owner.http, tiny_model(seed=3), version="3.0.1", make_latest=None)
    assert await latest(owner, model) == "3.0.1"


async def test_the_first_version_is_the_latest_even_a_pre_release(owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model(), version="1.0.0-rc.1"))["id"]
    assert await latest(owner, model) == "1.0.0-rc.1"
    await pushed(owner.http, tiny_model(seed=1), version="1.0.0")
    assert await latest(owner, model) == "1.0.0"


async def test_a_push_that_goes_on_may_change_its_mind(owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    files = tiny_model(seed=1)
    first = await open_upload(owner.http, files, version="2.0.0", version_notes="Old.")
    assert first["latest_note"] is None
    again = await open_upload(owner.http, files, version="2.0.0", make_latest=False, version_notes="New.")
    assert again["id"] == first["id"]
    assert "because the push requested it" in again["latest_note"]
    told = (await versions(owner, model))["2.0.0"]
    assert told["version_notes"] == "New."


async def test_the_order_of_pushes_decides_whatever_becomes_ready_first(owner: Tenant) -> None:
    wishes: list[tuple[str, bool | None]] = [("3.0.0", None), ("1.0.0", True), ("2.0.0", None)]
    files = [tiny_model(seed=number) for number in range(3)]
    uploads = [
        await open_upload(owner.http, each, version=version, make_latest=spec)
        for each, (version, spec) in zip(files, wishes, strict=True)
    ]
    for number in (2, 0, 1):
        await send(owner.http, uploads[number], files[number])
        await owner.http.post(f"/v1/uploads/{uploads[number]['id']}/complete")
        model = (await processed(owner.http, uploads[number]))["id"]
    assert await latest(owner, model) == "2.0.0", "pushed after 1.0.0 was said to be the latest, and higher"
    assert "because 1.0.0 is not higher" in (await versions(owner, model))["1.0.0"]["latest_note"]
    (entry,) = (await owner.http.get("/v1/audit?action=model.promote")).json()["data"]
    assert (entry["actor"], entry["details"]["version"], entry["details"]["before"]) == ("system", "2.0.0", "3.0.0")


async def test_what_people_read_is_of_the_version_that_is_the_latest(owner: Tenant) -> None:
    model = (await pushed(owner.http, tiny_model()))["id"]
    card = b"---\nlicense: mit\ntags: [other]\n---\nAnother model.\n"
    await pushed(owner.http, tiny_model(seed=1) | {"README.md": card}, version="2.0.0", make_latest=False)

    async def read() -> tuple[object, ...]:
        shown = (await owner.http.get(f"/v1/models/{model}")).json()
        return shown["version"], shown["license"], shown["tags"]

    assert await read() == ("1.0.0", "apache-2.0", ["tiny"])
    await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")
    assert await read() == ("2.0.0", "mit", ["other"])
    await owner.http.patch(f"/v1/models/{model}", json={"tags": ["mine"]})
    await owner.http.post(f"/v1/models/{model}/versions/1.0.0/rollback")
    assert await read() == ("1.0.0", "apache-2.0", ["mine"]), "what its owner edited stays"


async def test_why_a_version_is_not_the_latest_is_its_owners_to_know(
    owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = (await pushed(owner.http, tiny_model(), version="1.1.0"))["id"]
    await pushed(owner.http, tiny_model(seed=1), version="1.0.0")
    await owner.http.post(f"/v1/models/{model}/share")
    shown = (await anonymous.get(f"/v1/catalog/models/{model}")).json()["versions"]
    assert [(each["version"], each["latest_note"]) for each in shown] == [("1.0.0", None), ("1.1.0", None)]


async def test_notes(owner: Tenant, deployer: Tenant) -> None:
    model = await pushed(owner.http, tiny_model(), version_notes="First.\nMind the template.")
    assert model["version_notes"] == "First.\nMind the template."
    path = f"/v1/models/{model['id']}/versions/1.0.0"
    edited = await owner.http.patch(path, json={"version_notes": "Better."})
    assert (edited.status_code, edited.json()["version_notes"]) == (200, "Better.")
    await owner.http.post(f"/v1/models/{model['id']}/share")
    shown = (await deployer.http.get(f"/v1/catalog/models/{model['id']}")).json()
    assert shown["versions"][0]["version_notes"] == "Better."
    for body in (
        {"version_notes": "x" * 4001},
        {"version_notes": "a\u202eb"},
        {"version_notes": 7},
        {},
        {"is_latest": 1},
    ):
        assert problem(await owner.http.patch(path, json=body))[0] == 400
    assert (await owner.http.patch(path, json={"version_notes": None})).json()["version_notes"] is None
    foreign = await deployer.http.patch(path, json={"version_notes": "Mine."})
    assert problem(foreign) == (404, "not_found_error", "model_not_found")
    absent = await owner.http.patch(path.replace("1.0.0", "9.9.9"), json={"version_notes": "x"})
    assert problem(absent) == (404, "not_found_error", None)
    ready = (await owner.http.get("/v1/audit?action=model.ready")).json()["data"][0]
    assert ready["details"]["version_notes"] == "First.\nMind the template."
