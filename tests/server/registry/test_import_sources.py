"""Sources that lie, stop, redirect and attack: an import says what is wrong, and publishes nothing."""

import gzip
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from clock import Clock
from conftest import Tenant
from model_sources import COMMIT, Hub, content, cut, serving_hub, without_length
from modelshare.server import jobs
from modelshare.server.app import Application
from modelshare.server.db import notify
from modelshare.server.registry.imports import importer
from modelshare.server.registry.imports.service import IMPORT
from modelshare.server.registry.tables import UploadRow
from modelshare.server.registry.uploads import expiry
from modelshare.server.settings import Settings
from modelshare.wire import sources as wire
from served import fronted, wait_until
from server.registry.test_imports import digests, ended, imported, manifest_of, start
from uploading import PART, stored_files, tiny_model

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("running_app"),
    pytest.mark.parametrize("lend", ["sqlite"], indirect=True),
]
WEIGHTS = "model.safetensors"
TOKEN = "hf_" + "s3cret" * 8
Answer = Callable[[Request], Response | None]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"import_allow_private": True, "uploads_part_size": PART})


@pytest.fixture
def clock() -> Callable[[], float]:
    return Clock()


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with serving_hub(Hub(tiny_model(pad=3 * PART))) as found:
        yield found


def for_file(path: str, answer: Callable[[Request], Response | None]) -> Answer:
    return lambda request: answer(request) if request.url.path.endswith(f"/resolve/{COMMIT}/{path}") else None


def for_tree(answer: Callable[[Request], Response]) -> Answer:
    return lambda request: answer(request) if "/tree/" in request.url.path else None


async def failed(app: Application, owner: Tenant, hub: Hub, **fields: Any) -> str:
    """Why the import failed. Nothing is left of it."""
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url, **fields)
    assert found["state"] == "failed", found

    await nothing_left(app, owner)
    return str(found["reason"])


async def nothing_left(app: Application, owner: Tenant) -> None:
    async def is_empty() -> bool:
        async with app.database.read() as session:
            states = set(await session.scalars(select(UploadRow.state)))
        return states <= {"cancelled"} and stored_files(app) == []

    await wait_until(is_empty)
    assert (await owner.http.get("/v1/models")).json()["data"] == []


LIES: dict[str, Answer] = {
    "more bytes than it lists": for_file(WEIGHTS, lambda _: Response(b"x" * (4 * PART))),
    "more bytes than it lists, without a length": for_file(WEIGHTS, lambda _: without_length(b"x" * (4 * PART))),
    "more bytes than the range": for_file(
        "config.json", lambda _: Response(b"xyz", 206, {"Content-Range": f"bytes 0-2/{1 << 40}"})
    ),
    "fewer bytes than it lists": for_file(WEIGHTS, lambda _: Response(b"x" * PART)),
    "fewer bytes than it lists, without a length": for_file(WEIGHTS, lambda _: without_length(b"x")),
    "other bytes": for_file(WEIGHTS, lambda _: Response(b"x" * len(tiny_model(pad=3 * PART)[WEIGHTS]))),
    "other bytes of a small file": for_file("config.json", lambda _: Response(b"x" * 61)),
    "another range": for_file("config.json", lambda _: Response(b"x", 206, {"Content-Range": "bytes 5-5/61"})),
    "a compressed file": for_file("config.json", lambda _: Response(b"x", 200, {"Content-Encoding": "gzip"})),
    "an odd status": for_file("config.json", lambda _: Response(status_code=204)),
    "a compressed list": for_tree(
        lambda _: Response(gzip.compress(b"[" + b" " * (32 << 20) + b"]"), 200, {"Content-Encoding": "gzip"})
    ),
    "a list without an end": for_tree(lambda _: without_length(b"[" + b" " * (wire.MAX_JSON + 2))),
    "no JSON": for_tree(lambda _: Response(b"<html>")),
    "JSON that is too deep": for_tree(lambda _: Response(b"[" * 200_000)),
    "an object": for_tree(lambda _: JSONResponse({"error": "x"})),
    "a size that is no number": for_tree(lambda _: JSONResponse([{"type": "file", "path": "a", "size": "x"}])),
    "a size below zero": for_tree(lambda _: JSONResponse([{"type": "file", "path": "a", "size": -1}])),
    "a digest that is none": for_tree(
        lambda _: JSONResponse([{"type": "file", "path": "a", "lfs": {"oid": "x", "size": 1}}])
    ),
    "the same file twice": for_tree(lambda _: JSONResponse([{"type": "file", "path": "a", "size": 1}] * 2)),
    "a list that never ends": for_tree(
        lambda request: JSONResponse([], headers={"Link": f'<{request.url.path}?cursor=1>; rel="next"'})
    ),
    "a list that continues elsewhere": for_tree(
        lambda _: JSONResponse([], headers={"Link": '<https://other.example/x>; rel="next"'})
    ),
    "redirects without an end": lambda request: RedirectResponse(str(request.url)),
    "a redirect to a file": lambda _: Response(status_code=302, headers={"Location": "file:///etc/passwd"}),
    "a redirect to nowhere": lambda _: Response(status_code=302),
}


async def test_sources_that_lie(app: Application, owner: Tenant, hub: Hub) -> None:
    for lie, answer in LIES.items():
        hub.answer = answer
        reason = await failed(app, owner, hub)
        assert reason.endswith("."), (lie, reason)
        assert hub.url.removeprefix("http://") in reason or "The source " in reason, (lie, reason)


async def test_paths_that_leave_the_folder_or_fit_no_file_system(app: Application, owner: Tenant, hub: Hub) -> None:
    files = hub.files
    for path in ("../x", "/etc/passwd", "a/../../b", "a//b", "a\\b", "C:x", "a\nb", "x" * 1100, ".git/hooks"):
        hub.files = {**files, path: b"x"}
        reason = await failed(app, owner, hub, include=[".git/"])
        assert reason.endswith("."), (path, reason)
    assert not [asked for asked in hub.paths() if "resolve" in asked], "nothing was fetched"


async def test_a_hundred_thousand_files(app: Application, owner: Tenant, hub: Hub) -> None:
    hub.files = {f"f{number}": b"" for number in range(100_000)}
    assert "more than 10,000 files" in await failed(app, owner, hub)
    assert len(hub.requests) < 15


async def test_no_model(app: Application, owner: Tenant, hub: Hub) -> None:
    hub.files = {"README.md": b"hello"}
    assert "no weights" in await failed(app, owner, hub)
    hub.answer = lambda _: JSONResponse({}, 404, {"X-Error-Code": "RepoNotFound"})
    assert "does not show it without a token" in await failed(app, owner, hub)
    hub.answer = lambda _: JSONResponse({}, 404, {"X-Error-Code": "RevisionNotFound"})
    assert "has no revision `main`" in await failed(app, owner, hub)
    hub.answer = lambda _: JSONResponse({}, 403, {"X-Error-Code": "GatedRepo"})
    assert "is gated" in await failed(app, owner, hub)


async def test_pickles_beside_other_weights_are_left_out(owner: Tenant, hub: Hub) -> None:
    hub.files = {**hub.files, "pytorch_model.bin": b"x", "logs/.env": b"KEY=1"}
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url, exclude=["README.md"])
    assert found["state"] == "ready"
    assert [each["path"] for each in (await manifest_of(owner, found))["files"]] == ["config.json", WEIGHTS]
    for path in ("pytorch_model.bin", "logs/.env", "README.md"):
        assert path in found["left_out"]
    model = (await owner.http.get(f"/v1/models/{found['model']}")).json()
    assert model["license"] == "mit", "as the Hub says it, without a card"


async def test_files_on_another_host(owner: Tenant, hub: Hub) -> None:
    """They come from there, and the token does not go there."""
    elsewhere: list[Request] = []

    async def storage(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        elsewhere.append(request)
        name = request.query_params["of"]
        await content(request, hub.files[name])(scope, receive, send)

    def away(request: Request) -> Response | None:
        name = request.url.path.rpartition("/")[2]
        signed = f"{url}/blob?of={name}&signature=a%2Fb+c"
        return RedirectResponse(signed) if "/resolve/" in request.url.path else None

    hub.page = 2
    async with fronted(storage) as url:
        hub.answer = away
        found = await imported(owner, "hf:acme/tiny", endpoint=hub.url, token=TOKEN)
    assert (found["state"], found["reason"]) == ("ready", None)
    assert len(elsewhere) == len(hub.files)
    assert not [request for request in elsewhere if "authorization" in request.headers]
    assert {request.scope["query_string"].partition(b"signature=")[2] for request in elsewhere} == {b"a%2Fb+c"}
    assert {request.headers["authorization"] for request in hub.requests} == {f"Bearer {TOKEN}"}


async def test_cut_connections_continue_where_they_were_cut(
    app: Application, owner: Tenant, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_PART", PART)
    ranges: list[str] = []

    def answer(request: Request) -> Response:
        ranges.append(request.headers.get("range", ""))
        return cut(request, hub.files[WEIGHTS], at=PART + 1000)

    hub.answer = for_file(WEIGHTS, answer)
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url)
    assert (found["state"], found["reason"]) == ("ready", None)
    assert {each["path"]: each["sha256"] for each in (await manifest_of(owner, found))["files"]} == digests(hub.files)
    assert ranges[0] == ""
    assert len(ranges) >= 3
    starts = [int(each.removeprefix("bytes=").partition("-")[0]) for each in ranges[1:]]
    assert starts == sorted(set(starts)), "nothing is asked for twice"


async def test_a_source_without_ranges(owner: Tenant, hub: Hub) -> None:
    data = hub.files[WEIGHTS]
    is_cut: list[bool] = []

    def answer(request: Request) -> Response:
        is_cut.append(not is_cut)
        return cut(request, data, 2 * PART) if is_cut[-1] else Response(data)

    hub.answer = for_file(WEIGHTS, answer)
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url)
    assert (found["state"], found["reason"]) == ("ready", None)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_source_that_asks_to_wait(app: Application, owner: Tenant, hub: Hub, clock: Clock, status: int) -> None:
    busy = Response(status_code=status, headers={"Retry-After": "900"})
    hub.answer = for_file(WEIGHTS, lambda _: busy)
    started = await start(owner, "hf:acme/tiny", endpoint=hub.url)
    await waiting(owner, started)
    assert (await start(owner, "hf:acme/tiny", endpoint=hub.url))["id"] == started["id"], "the same goes on"
    asked = len(hub.requests)
    await pass_time(app, clock, 600)
    assert len(hub.requests) == asked, "it is not asked before its time"
    hub.answer = lambda _: None
    await pass_time(app, clock, 301)
    found = await ended(owner, started)
    assert (found["state"], found["reason"]) == ("ready", None)


@pytest.mark.parametrize("what", ["its upload", "its model"])
async def test_what_it_imports_into_is_deleted(
    app: Application, owner: Tenant, hub: Hub, clock: Clock, what: str
) -> None:
    hub.answer = for_file(WEIGHTS, lambda _: Response(status_code=429, headers={"Retry-After": "60"}))
    started = await start(owner, "hf:acme/tiny", endpoint=hub.url)
    model = (await waiting(owner, started))["model"]
    if what == "its upload":
        [upload] = (await owner.http.get("/v1/uploads?state=open")).json()["data"]
        assert (await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")).status_code == 200
    else:
        assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 204
    hub.answer = lambda _: None
    await pass_time(app, clock, 61)
    found = await ended(owner, started)
    assert (found["state"], found["reason"]) == ("cancelled", "Its upload was cancelled.")
    await nothing_left(app, owner)
    again = await imported(owner, "hf:acme/tiny", endpoint=hub.url)
    assert (again["state"], again["version"]) == ("ready", "1.0.0")


async def test_an_upload_that_expired_meanwhile_is_opened_again(
    app: Application, owner: Tenant, hub: Hub, clock: Clock
) -> None:
    hub.answer = for_file(WEIGHTS, lambda _: Response(status_code=429, headers={"Retry-After": "3600"}))
    started = await start(owner, "hf:acme/tiny", endpoint=hub.url)
    await waiting(owner, started)
    async with app.database.write() as session:
        await session.execute(update(UploadRow).values(expires_at=0))
    await expiry.end_expired(app.platform)
    hub.answer = lambda _: None
    await pass_time(app, clock, 3601)
    found = await ended(owner, started)
    assert (found["state"], found["reason"], found["version"]) == ("ready", None, "1.0.0")


async def waiting(owner: Tenant, started: dict[str, Any]) -> dict[str, Any]:
    """The import, once it waits for its source."""

    async def found() -> dict[str, Any] | None:
        shown = (await owner.http.get(f"/v1/imports/{started['id']}")).json()
        return dict(shown) if (shown["reason"] or "").startswith("Waiting: ") else None

    return await wait_until(found)


async def test_a_source_that_stays_away(app: Application, owner: Tenant, hub: Hub, clock: Clock) -> None:
    hub.answer = for_file(WEIGHTS, lambda _: Response(status_code=500))
    started = await start(owner, "hf:acme/tiny", endpoint=hub.url)
    await waiting(owner, started)
    await pass_time(app, clock, 25 * 3600)
    found = await ended(owner, started)
    assert found["state"] == "failed"
    assert "Check the source, and import it again." in found["reason"]
    await nothing_left(app, owner)


async def test_no_such_host(app: Application, owner: Tenant, hub: Hub, clock: Clock) -> None:
    hub.url = "http://127.0.0.1:9"
    started = await start(owner, "hf:acme/tiny", endpoint=hub.url)
    await waiting(owner, started)
    await pass_time(app, clock, 60)
    assert (await ended(owner, started))["reason"].startswith("No connection to `127.0.0.1`: Connection refused.")


async def test_a_slow_source_makes_way_for_others(owner: Tenant, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn is over with the first bytes; the next one lasts."""
    monkeypatch.setattr(importer, "_TURN_SECONDS", -1)
    turns: list[int] = []

    def answer(request: Request) -> None:
        if "/revision/" in request.url.path:
            turns.append(len(turns))
        elif "/resolve/" in request.url.path:
            monkeypatch.setattr(importer, "_TURN_SECONDS", 600)

    hub.answer = answer
    found = await imported(owner, "hf:acme/tiny", endpoint=hub.url)
    assert (found["state"], found["reason"]) == ("ready", None)
    assert len(turns) == 2


async def pass_time(app: Application, clock: Clock, seconds: int) -> None:
    clock.now += seconds
    async with app.database.write() as session:
        notify(session, jobs.TOPIC, IMPORT)
