"""`GET /v1/agent/link`: who may link, one link per agent, what goes over it, how it ends."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from conftest import Tenant
from factories import make_model
from link_agent import enroll, hello_of, linked
from link_recording import FROM_AGENT
from modelshare.server.app import Application
from modelshare.server.fleet.topics import AGENTS_TOPIC
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.agents import Phase
from modelshare.wire.link import LINK_PATH, PROTOCOL, Chunk, CloseCode, Hello, Ping
from served import serving, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def agent_of(tenant: Tenant) -> dict[str, Any]:
    (agent,) = (await tenant.http.get("/v1/agents")).json()["data"]
    return dict(agent)


async def wait_state(tenant: Tenant, expected: str) -> None:
    async def check() -> bool:
        return bool((await agent_of(tenant))["state"] == expected)

    await wait_until(check)


@pytest.mark.parametrize("token", ["", "msa_nonsense", "ms_acme_nonsense"])
async def test_an_unknown_credential_gets_no_link(url: str, token: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with linked(url, token):
            pass
    assert refused.value.status == 403


async def test_a_projects_key_is_no_agents_token(url: str, deployer: Tenant) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError):
        async with linked(url, deployer.project.api_key):
            pass


async def test_of_two_links_the_one_that_the_database_knows_stays(
    app: Application, url: str, deployer: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is recorded first, but goes on after the second one."""
    agent_id, token = await enroll(deployer.http)
    recorded, released, write = asyncio.Event(), asyncio.Event(), app.database.write

    @contextlib.asynccontextmanager
    async def held_once() -> AsyncIterator[AsyncSession]:
        async with write() as session:
            yield session
        if (AGENTS_TOPIC, agent_id) in session.info["notifications"] and not recorded.is_set():
            recorded.set()
            await released.wait()

    monkeypatch.setattr(app.database, "write", held_once)
    async with linked(url, token, hello=hello_of("run")) as first:
        await recorded.wait()
        async with linked(url, token, hello=hello_of("run")) as second:
            await second.wanted(0)
            released.set()
            await first.end()
            link = app.links.get(uuid.UUID(agent_id))
            assert link is not None
            assert not link.is_over


async def test_state_follows_the_link_and_hello_is_kept(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token):
        await wait_state(deployer, "active")
        agent = await agent_of(deployer)
        assert agent["last_seen_at"] is not None
        assert agent["capabilities"]["accelerator"] == "cpu"
    await wait_state(deployer, "disconnected")


async def test_a_newer_link_takes_over(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as older:
        await wait_state(deployer, "active")
        async with linked(url, token) as newer:
            assert (await older.end())[0] == CloseCode.REPLACED
            await newer.wanted(0)
            await wait_state(deployer, "active")


async def test_another_protocol_is_told_to_update(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    for oldest, newest, older in ((PROTOCOL + 1, PROTOCOL + 2, "server"), (0, 0, "agent"), (PROTOCOL + 1, 0, "server")):
        hello = Hello(oldest, "9", [], "cpu", 0, 0, newest_protocol=newest)
        async with linked(url, token, hello=hello) as agent:
            code, reason = await agent.end()
            assert code == CloseCode.PROTOCOL
            assert f"update the {older}" in reason
    async with linked(url, token, hello=Ping()) as agent:
        assert (await agent.end())[0] == CloseCode.PROTOCOL


@pytest.mark.parametrize(
    ("oldest", "newest", "agreed"),
    [
        (PROTOCOL - 1, 0, PROTOCOL - 1),
        (PROTOCOL - 1, PROTOCOL, PROTOCOL),
        (PROTOCOL, PROTOCOL + 1, PROTOCOL),
        (PROTOCOL - 2, PROTOCOL - 1, PROTOCOL - 1),
    ],
)
async def test_the_newest_version_that_both_understand_is_spoken(
    url: str, deployer: Tenant, oldest: int, newest: int, agreed: int
) -> None:
    _, token = await enroll(deployer.http)
    hello = Hello(oldest, "9", [], "cpu", 0, 0, newest_protocol=newest)
    async with linked(url, token, hello=hello) as agent:
        await agent.wanted(0)
        assert agent.protocol == agreed


async def test_an_agent_of_the_version_before_serves_a_request(
    app: Application, url: str, owner: Tenant, deployer: Tenant
) -> None:
    """By the bytes that it sent then, but for ids."""
    frames = {fields[0]: fields for fields in map(msgspec.msgpack.decode, reversed(FROM_AGENT))}
    frames["report"] = next(frame for frame in map(msgspec.msgpack.decode, FROM_AGENT) if frame[2:3] == [Phase.READY])
    _, token = await enroll(deployer.http)
    model_id = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model_id}/share")
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    path = f"/{deployer.project.id}/chat/v1/chat/completions"
    question = {"model": "acme/tiny", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.ws_connect(url + LINK_PATH, headers=headers) as socket:

        async def heard(kind: str) -> list[Any]:
            while (fields := msgspec.msgpack.decode((await socket.receive()).data))[0] != kind:
                pass
            return list(fields)

        async def say(kind: str, id_: object) -> None:
            await socket.send_bytes(msgspec.msgpack.encode([kind, id_, *frames[kind][2:]]))

        await say("hello", PROTOCOL - 1)
        assert (await heard("welcome"))[1] == PROTOCOL - 1
        await heard("desired")
        assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
        (deployment,) = (await heard("desired"))[2]
        await say("report", deployment["deployment_id"])

        async def answered() -> httpx.Response | None:
            answer = await deployer.http.post(path, json=question)
            return answer if answer.status_code == 200 else None

        asking = asyncio.ensure_future(wait_until(answered))
        request = await heard("request")
        for kind in ("head", "chunk", "end"):
            await say(kind, request[1])
        assert (await asking).content == frames["chunk"][2]


async def test_frames_of_unknown_kinds_are_ignored_up_to_a_rate(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await agent.wanted(0)
        await agent.socket.send_bytes(msgspec.msgpack.encode(["weather", 5, {"mood": "fair"}]))
        await agent.report("nonsense", Phase.READY)
        await wait_state(deployer, "active")
        assert agent.closed is None
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            for _ in range(2000):
                await agent.socket.send_bytes(msgspec.msgpack.encode(["weather"]))
        assert (await agent.end())[0] in {CloseCode.PROTOCOL, None}  # it may be reset before that is read


async def test_what_is_no_frame_ends_the_link(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await agent.socket.send_bytes(b"\xc1 no MessagePack")
        assert (await agent.end())[0] == CloseCode.PROTOCOL
    async with linked(url, token) as agent:
        await agent.report("x", "no phase")  # type: ignore[arg-type]
        assert (await agent.end())[0] == CloseCode.PROTOCOL


async def test_frames_of_unknown_streams_and_deployments_fall_away(url: str, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with linked(url, token) as agent:
        await agent.wanted(0)
        await agent.send(Chunk(77, b"late"))
        await agent.report("0190a6f0-0000-7000-8000-000000000000", Phase.READY)
        await agent.report("nonsense", Phase.READY)
        await wait_state(deployer, "active")


async def test_desired_state_is_what_endpoints_ask_for(
    app: Application, url: str, owner: Tenant, deployer: Tenant
) -> None:
    _, token = await enroll(deployer.http)
    model_id = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model_id}/share")
    async with linked(url, token) as agent:
        await agent.wanted(0)
        spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
        assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
        (wanted,) = await agent.wanted(1)
        assert (wanted.served_name, wanted.version, wanted.format) == ("acme/tiny", "1.0.0", "gguf")
        assert wanted.max_concurrent == 100
        assert [file.path for file in wanted.files] == ["model.gguf"]
        for done, shown in ((5000, 1000), (300, 300)):
            await agent.report(wanted.deployment_id, Phase.PULLING, bytes_done=done, bytes_total=1000)

            async def check(shown: int = shown) -> bool:
                endpoint = (await deployer.http.get("/v1/endpoints/chat")).json()
                return bool(endpoint["progress"] == {"phase": "pulling", "bytes_done": shown, "bytes_total": 1000})

            await wait_until(check)
        (report,) = (await agent_of(deployer))["deployments"]
        assert (report["model_name"], report["phase"], report["bytes_done"]) == ("acme/tiny", "pulling", 300)
        assert (await deployer.http.delete("/v1/endpoints/chat")).status_code == 204
        await agent.wanted(0)


async def test_a_model_that_no_frame_can_tell_keeps_no_other_from_its_agent(
    app: Application, url: str, owner: Tenant
) -> None:
    lost: dict[str, dict[str, object]] = {
        "long": {"version": "1" * 300},
        "shapeless": {"manifest": b'{"files": 5}'},
        "huge": {"manifest": b'{"files": [{"path": "a", "size": 18446744073709551616, "sha256": ""}]}'},
    }
    for name in ("odd", *lost, "sound"):
        model_id = await make_model(app, owner.project.id, name=name)
        spec = {"slug": name, "model": str(model_id), "tier": "self_hosted"}
        assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
        async with app.database.write() as session:
            odd = {"architecture": "x\x1b" * 5000, "context_length": 2**60, "parameters": -1} if name == "odd" else {}
            if changes := lost.get(name, odd):
                await session.execute(update(VersionRow).where(VersionRow.model_id == model_id).values(**changes))
    _, token = await enroll(owner.http)
    async with linked(url, token) as agent:
        told = {wanted.served_name: wanted for wanted in await agent.wanted(2)}
    assert told.keys() == {"acme/odd", "acme/sound"}
    assert (told["acme/odd"].context_length, told["acme/odd"].parameters) == (None, None)
    assert (told["acme/odd"].architecture or "").startswith("x x x ")


async def test_what_it_held_counts_as_waiting_on_a_new_link(
    app: Application, url: str, owner: Tenant, deployer: Tenant
) -> None:
    _, token = await enroll(deployer.http)
    model_id = await make_model(app, owner.project.id)
    spec = {"slug": "chat", "model": str(model_id), "tier": "self_hosted"}
    await owner.http.post(f"/v1/models/{model_id}/share")
    await deployer.http.post("/v1/endpoints", json=spec)

    async def status() -> str:
        return str((await deployer.http.get("/v1/endpoints/chat")).json()["status"])

    async def is_(expected: str) -> None:
        async def check() -> bool:
            return await status() == expected

        await wait_until(check)

    async with linked(url, token) as agent:
        await agent.make_ready()
        await is_("active")
    await is_("degraded")
    async with linked(url, token) as agent:
        await agent.wanted(1)
        assert await status() == "degraded"
        await agent.make_ready()
        await is_("active")


async def test_a_link_that_is_gone_leaves_nothing_running(url: str, deployer: Tenant) -> None:
    """An agent comes and goes for months: what stays of each time would add up."""
    _, token = await enroll(deployer.http)

    for _ in range(3):
        async with linked(url, token):
            await wait_state(deployer, "active")

    async def none_is_left() -> bool:
        return not any(map(_serves_links, asyncio.all_tasks()))

    await wait_until(none_is_left)


def _serves_links(task: "asyncio.Task[Any]") -> bool:
    """Whether the task is at work in `Links.asgi`, however deep."""
    at: Any = task.get_coro()
    while at is not None:
        code = getattr(at, "cr_code", None)
        if code is not None and code.co_qualname == "Links.asgi":
            return True
        at = getattr(at, "cr_await", None)
    return False


async def test_a_server_that_stops_says_so_and_forgets_nobody(app: Application, deployer: Tenant) -> None:
    _, token = await enroll(deployer.http)
    async with serving(app) as url, linked(url, token) as agent:
        await wait_state(deployer, "active")
        await app.links.stop()
        assert (await agent.end())[0] == CloseCode.GOING_AWAY
        await wait_state(deployer, "disconnected")
