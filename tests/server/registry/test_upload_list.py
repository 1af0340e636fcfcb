"""GET /v1/uploads and /v1/uploads/{id}."""

import httpx
import pytest

from conftest import Tenant
from uploading import error_of, missing, open_upload, push, put, tiny_model

pytestmark = pytest.mark.anyio


async def test_lists_newest_first_with_what_is_there(owner: Tenant) -> None:
    files = tiny_model()
    one = await open_upload(owner.http, files, "one")
    await push(owner.http, files, "two")
    n, k, data = next(missing(one, files))
    await put(owner.http, one, n, k, data)
    two, one = (await owner.http.get("/v1/uploads")).json()["data"]
    assert [(upload["name"], upload["state"]) for upload in (two, one)] == [("two", "completed"), ("one", "open")]
    assert (one["bytes_done"], one["files"][0]["parts_done"]) == (len(data), [0])


async def test_filters(owner: Tenant) -> None:
    await open_upload(owner.http, tiny_model(), "one")
    await push(owner.http, tiny_model(seed=1), "two")

    async def names(query: str) -> list[str]:
        return [upload["name"] for upload in (await owner.http.get(f"/v1/uploads?{query}")).json()["data"]]

    assert await names("state=open") == ["one"]
    assert await names("state=completed") == ["two"]
    assert await names("name=two") == ["two"]
    assert await names("name=TWO") == ["two"], "names are found without regard to case"
    assert await names("name=two&state=open") == []
    error_of(await owner.http.get("/v1/uploads?state=half"), 400)


async def test_pages(owner: Tenant) -> None:
    opened = [(await open_upload(owner.http, tiny_model(), f"m{number}"))["id"] for number in range(3)]
    first = (await owner.http.get("/v1/uploads?limit=2")).json()
    assert ([upload["id"] for upload in first["data"]], first["has_more"]) == (opened[:0:-1], True)
    second = (await owner.http.get(f"/v1/uploads?limit=2&after={first['next_cursor']}")).json()
    assert ([upload["id"] for upload in second["data"]], second["has_more"]) == (opened[:1], False)


async def test_other_projects_find_nothing(owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    upload = await open_upload(owner.http, tiny_model())
    assert (await deployer.http.get("/v1/uploads")).json()["data"] == []
    theirs = await deployer.http.get(f"/v1/uploads/{upload['id']}")
    nobodys = await deployer.http.get("/v1/uploads/00000000-0000-7000-8000-000000000000")
    assert error_of(theirs, 404) == error_of(nobodys, 404)
    error_of(await anonymous.get("/v1/uploads"), 401)
    error_of(await anonymous.get(f"/v1/uploads/{upload['id']}"), 401)
