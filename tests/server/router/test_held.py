"""Models that stay on their owner's machine: registered, read through the platform, changed, away."""

import asyncio
import contextlib
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from changing_folders import files_below
from conftest import Tenant, client_of, new_tenant, running
from holding import Held, enrolled_holder, held, holding, said
from link_agent import LinkAgent, enroll, linked
from modelshare.agent.hold.limits import Hours
from modelshare.agent.identity import Identity, save_identity
from modelshare.server.app import Application, create_app
from modelshare.server.fleet.tables import AgentRow
from modelshare.server.registry import queries as models
from modelshare.server.registry import service as registry
from modelshare.server.registry.storages.stores import download_url
from modelshare.server.registry.tables import BlobRow, GarbageRow
from modelshare.server.settings import Settings
from modelshare.wire.held import READ_ROUTE, decode_read
from modelshare.wire.link import Answer, Chunk, End, Head, Request
from served import free_port, serving, wait_until
from shell import write_model

pytestmark = pytest.mark.anyio
sqlite = pytest.mark.parametrize("lend", ["sqlite"], indirect=True)
several = pytest.mark.parametrize("lend", ["postgres"], indirect=True)


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


async def links(app: Application, url: str, model: dict[str, Any]) -> dict[str, str]:
    """What an agent's grant would have, by path."""
    async with app.database.read() as session:
        found = await models.any_model(session, uuid.UUID(model["id"]))
        assert found is not None
        files = await registry.stored_files(session, found.versions[-1].id)
    expires_at = app.platform.now() + 600
    return {each.path: await download_url(app.platform, each, expires_at=expires_at, base_url=url) for each in files}


async def test_ranges_come_from_the_owners_machine_and_nothing_is_stored(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    async with held(url, owner, tmp_path) as laptop, httpx.AsyncClient() as http:
        model = await laptop.published()
        manifest = (await owner.http.get(f"/v1/models/{model['id']}/versions/1.0.0/manifest")).json()
        assert manifest["facts"]["digests"] == "holder"
        assert (await laptop.ended(model["id"]))["digests"] == "holder"
        for path, link in (await links(app, url, model)).items():
            content = (laptop.folder / path).read_bytes()
            whole = await http.get(link)
            assert (whole.status_code, whole.content) == (200, content)
            part = await http.get(link, headers={"Range": "bytes=3-9"})
            assert (part.status_code, part.content) == (206, content[3:10])
            assert part.headers["content-range"] == f"bytes 3-9/{len(content)}"
            head = await http.head(link)
            assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))
            assert (await http.get(link, headers={"Range": "bytes=99999999-"})).status_code == 416
            assert (await http.get(link.replace("signature=", "signature=x"))).status_code == 403
        sizes = {stat.st_size for stat in files_below(app.settings.data_dir).values()}
        assert (laptop.folder / "model.safetensors").stat().st_size not in sizes
        again = (await laptop.register()).json()
        assert (again["version"], again["status"]) == ("1.0.0", "ready"), "the same files are the same version"
        async with app.database.read() as session:
            assert {row.storage for row in await session.scalars(select(BlobRow))} != {"platform"}


async def test_a_changed_file_fails_its_version_and_a_restored_one_is_read_again(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    async with held(url, owner, tmp_path) as laptop, httpx.AsyncClient() as http:
        model = await laptop.published()
        link = (await links(app, url, model))["model.safetensors"]
        weights = laptop.folder / "model.safetensors"
        before = weights.read_bytes()
        os.utime(weights, ns=(1, 1))
        assert (await http.get(link)).content == before, "it is hashed again, and the same"
        weights.write_bytes(before[:-1] + b"\xff")
        assert (await http.get(link)).status_code == 404

        async def failed() -> dict[str, Any] | None:
            version = await laptop.ended(model["id"])
            return version if version["status"] == "failed" else None

        version = await wait_until(failed)
        assert version["status_reason"].startswith("model.safetensors was changed after this version was published.")
        weights.write_bytes(before)
        assert (await laptop.register()).json()["version"] == "1.0.0"
        version = await laptop.ended(model["id"])
        assert (version["status"], version["digests"]) == ("ready", "platform"), "the platform has read all bytes"
        assert (await laptop.register()).json()["version"] == "1.0.0"
        assert (await http.get(link)).content == before


@sqlite
async def test_a_missing_file_fails_its_version_but_a_missing_folder_is_waited_for(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    async with held(url, owner, tmp_path, watch_seconds=0.05) as laptop, httpx.AsyncClient() as http:
        model = await laptop.published()
        link = (await links(app, url, model))["model.safetensors"]
        away = laptop.folder.rename(tmp_path / "unmounted")
        answer = await http.get(link)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "owner_away")
        away.rename(laptop.folder)
        assert (await http.get(link)).status_code == 200
        assert (await laptop.ended(model["id"]))["status"] == "ready"
        (laptop.folder / "model.safetensors").unlink()

        async def reason() -> str | None:
            return str((await laptop.ended(model["id"]))["status_reason"] or "")

        assert (await wait_until(reason)).startswith("model.safetensors is no longer on the machine that holds it")


@sqlite
async def test_nothing_but_what_was_registered_is_served(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    """Neither a file beside it, nor what a link to elsewhere has become."""
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"secret")
    async with held(url, owner, tmp_path) as laptop, httpx.AsyncClient() as http:
        model = await laptop.published()
        found = await links(app, url, model)
        (laptop.folder / "beside.safetensors").write_bytes(b"beside")
        storage = found["config.json"].partition("/blobs/")[2].partition(":")[0]
        store = await app.platform.stores.get(storage)
        expires_at = app.platform.now() + 600
        for content in (b"beside", b"secret"):
            key = f"{hashlib.sha256(content).hexdigest()}-{len(content)}"
            answer = await http.get(store.get_url(key, expires_at=expires_at, base_url=url))
            assert answer.status_code == 404
        for key in ("model.safetensors", "etc/passwd", "0" * 64, f"{'0' * 64}--1"):
            answer = await http.get(store.get_url(key, expires_at=expires_at, base_url=url))
            assert answer.status_code == 404, key
        (laptop.folder / "config.json").unlink()
        (laptop.folder / "config.json").symlink_to(secret)
        answer = await http.get(found["config.json"])
        assert (answer.status_code, b"secret" in answer.content) == (404, False)


@sqlite
async def test_readers_wait_while_the_holder_is_away_or_closed(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    async with held(url, owner, tmp_path) as laptop:
        model = await laptop.published()
    found = await links(app, url, model)
    async with httpx.AsyncClient() as http:
        answer = await http.get(found["config.json"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "owner_away")
        assert int(answer.headers["retry-after"]) > 0
        assert "is not connected" in answer.json()["error"]["message"]
        noon = datetime(2026, 11, 27, 12, tzinfo=None)  # noqa: DTZ001 - local time
        night = {"hours": Hours.parse("22:00-06:00"), "local_time": lambda: noon}
        async with held(url, owner, tmp_path, **night):
            answer = await http.get(found["config.json"])
            assert (answer.status_code, answer.headers["retry-after"]) == (503, str(10 * 3600))
            assert "from 22:00 to 06:00" in answer.json()["error"]["message"]
        async with held(url, owner, tmp_path):
            assert (await http.get(found["config.json"])).status_code == 200


@sqlite
async def test_processing_waits_for_the_holder(app: Application, url: str, owner: Tenant, tmp_path: Path) -> None:
    async with held(url, owner, tmp_path) as laptop:
        source = laptop
    answer = await source.register()
    assert answer.json()["status"] == "processing"
    async with held(url, owner, tmp_path) as laptop:
        assert (await laptop.ended(answer.json()["model"]))["status"] == "ready"


@sqlite
async def test_deleting_the_model_leaves_the_folder(app: Application, url: str, owner: Tenant, tmp_path: Path) -> None:
    async with held(url, owner, tmp_path) as laptop:
        model = await laptop.published()
        link = (await links(app, url, model))["config.json"]
        assert (await owner.http.delete(f"/v1/models/{model['id']}")).status_code == 204

        async def is_collected() -> bool:
            async with app.database.read() as session:
                return (await session.scalars(select(GarbageRow))).first() is None

        await wait_until(is_collected)
        assert (laptop.folder / "config.json").exists()
    async with httpx.AsyncClient() as http:
        assert (await http.get(link)).status_code == 503


@sqlite
async def test_who_may_register_and_report(
    app: Application, url: str, owner: Tenant, deployer: Tenant, tmp_path: Path
) -> None:
    async with held(url, owner, tmp_path) as laptop:
        model = await laptop.published()
        foreign = Held(deployer, laptop.folder, laptop.agent_id, laptop.files, laptop.holder)
        assert (await foreign.register()).status_code == 404, "another project's holder"
        engine_agent, engine_token = await enroll(owner.http)
        own = Held(owner, laptop.folder, engine_agent, laptop.files, laptop.holder)
        assert (await own.register("other")).status_code == 404, "an agent that runs models"
        without = await laptop.register("other", files=[{"path": "config.json", "size": 2}])
        assert without.status_code == 400
        _, foreign_token = await enrolled_holder(deployer)
        sha256 = hashlib.sha256((laptop.folder / "config.json").read_bytes()).hexdigest()
        body = {"files": [{"sha256": sha256}]}
        async with client_of(app) as nobody:
            for token, status in (("", 401), (engine_token, 401), (foreign_token, 204)):
                headers = {"Authorization": f"Bearer {token}"}
                answer = await nobody.post("/v1/agent/held-changes", json=body, headers=headers)
                assert answer.status_code == status
        assert (await laptop.ended(model["id"]))["status"] == "ready", "nothing of it was theirs"


@sqlite
async def test_a_holder_is_given_nothing_to_run(app: Application, url: str, owner: Tenant, tmp_path: Path) -> None:
    async with held(url, owner, tmp_path) as laptop:
        model = await laptop.published()
        spec = {"slug": "chat", "model": model["id"], "tier": "self_hosted"}
        made = await owner.http.post("/v1/endpoints", json=spec)
        assert made.status_code == 201, made.text
        _, token = await enroll(owner.http)
        async with linked(url, token) as box:
            assert len(await box.wanted(1)) == 1
            agents = (await owner.http.get("/v1/agents")).json()["data"]
            assert {agent["is_holder"]: len(agent["deployments"]) for agent in agents} == {True: 0, False: 1}


async def _too_much(agent: LinkAgent, request: Request, length: int) -> None:
    await agent.send(Head(request.stream, 200, "application/octet-stream"))
    await agent.send(Chunk(request.stream, b"x" * (length + 1)))


async def _too_little(agent: LinkAgent, request: Request, length: int) -> None:
    await agent.send(Head(request.stream, 200, "application/octet-stream"))
    await agent.send(Chunk(request.stream, b"x" * (length - 1)))
    await agent.send(End(request.stream))


async def _nothing(agent: LinkAgent, request: Request, length: int) -> None:
    await agent.send(End(request.stream))


async def _rubbish(agent: LinkAgent, request: Request, length: int) -> None:
    await agent.send(Answer(request.stream, 503, "text/html", b"<script>" + bytes(range(256))))


async def _whole(agent: LinkAgent, request: Request, length: int) -> None:
    await agent.send(Answer(request.stream, 200, "application/octet-stream", b"x" * length))


@sqlite
@pytest.mark.parametrize("answers", [_too_much, _too_little, _nothing, _rubbish, _whole])
async def test_a_holder_that_answers_wrongly_gives_no_whole_file(
    app: Application, url: str, owner: Tenant, tmp_path: Path, answers: Any
) -> None:
    async with held(url, owner, tmp_path) as laptop:
        model = await laptop.published()
        token = laptop.holder.link._headers["Authorization"].removeprefix("Bearer ")
    found = await links(app, url, model)

    async def handle(agent: LinkAgent, request: Request, body: bytes) -> None:
        assert request.route == READ_ROUTE
        await answers(agent, request, decode_read(body).length)

    async with linked(url, token, handler=handle), httpx.AsyncClient() as http:

        async def is_connected() -> bool:
            agents = (await owner.http.get("/v1/agents")).json()["data"]
            return bool(agents[0]["state"] == "active")

        await wait_until(is_connected)
        try:
            answer = await http.get(found["config.json"])
        except httpx.RemoteProtocolError:
            return  # it was cut
        assert answer.status_code in {500, 503}


@several
async def test_the_holder_is_reached_through_another_process(settings: Settings, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(2)]
    apps = [create_app(settings.model_copy(update={"advertise_url": f"http://127.0.0.1:{port}"})) for port in ports]
    async with contextlib.AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(running(app))
        urls = [await stack.enter_async_context(serving(app, port)) for app, port in zip(apps, ports, strict=True)]
        owner = await new_tenant(apps[0], "acme")
        stack.push_async_callback(owner.http.aclose)
        laptop = await stack.enter_async_context(held(urls[0], owner, tmp_path))
        model = await laptop.published()
        link = (await links(apps[1], urls[1], model))["model.safetensors"]
        content = (laptop.folder / "model.safetensors").read_bytes()
        async with httpx.AsyncClient() as http:
            answers = await asyncio.gather(*(http.get(link, headers={"Range": f"bytes={n}-"}) for n in range(8)))
        assert [answer.content for answer in answers] == [content[n:] for n in range(8)]


@sqlite
async def test_a_machine_that_the_platform_no_longer_knows_is_told_what_to_do(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    agent_id, token = await enrolled_holder(owner)
    write_model(tmp_path / "model")
    (tmp_path / "hold").mkdir(mode=0o700)
    save_identity(tmp_path / "hold", Identity(agent_id, token, app.platform.verdicts.key_of(agent_id)))
    async with app.database.write() as session:
        await session.delete(await session.get_one(AgentRow, uuid.UUID(agent_id)))
    with holding(url, owner.project.api_key, tmp_path) as process:
        await asyncio.to_thread(process.wait, 60)
    assert f"delete {tmp_path}/hold/identity.json and run the command again; it needs no join key." in said(tmp_path)


@sqlite
async def test_moved_to_the_platform_it_needs_its_machine_no_more(
    app: Application, url: str, owner: Tenant, tmp_path: Path
) -> None:
    async with held(url, owner, tmp_path) as laptop:
        model = await laptop.published()
        assert (await owner.http.post("/v1/storage/moves", json={"model": "tiny", "to": "platform"})).status_code == 202

        async def is_moved() -> bool:
            return bool((await owner.http.get("/v1/storage/moves")).json()["data"][0]["state"] == "done")

        await wait_until(is_moved)
        assert (await laptop.ended(model["id"]))["digests"] == "platform"
    link = (await links(app, url, model))["model.safetensors"]
    async with httpx.AsyncClient() as http:
        assert (await http.get(link)).content == (laptop.folder / "model.safetensors").read_bytes()
