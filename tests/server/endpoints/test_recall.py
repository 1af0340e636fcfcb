"""`/v1/models/{id}/recall`: unshared now, told to every deployer, stopped at the deadline, deleted and confirmed."""

import asyncio
import time
import uuid
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, update

from answers import ANONYMOUS, message, problem
from conftest import Tenant
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from modelshare.server.db import notify
from modelshare.server.endpoints import recalls
from modelshare.server.endpoints.recalls import STOP
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.jobs import TOPIC, JobRow
from modelshare.server.registry.service import MODELS_TOPIC
from modelshare.server.sharing.tables import RecallRow
from modelshare.wire.sharing import LATEST_DEADLINE
from recalling import REASON, actions, due, endpoint_is, recall
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_it_unshares_now_and_endpoints_serve_until_the_deadline(
    owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient, model: str, deployed: str
) -> None:
    answer = await recall(owner, model, 3600)
    assert answer.status_code == 200, answer.text
    state = answer.json()
    assert (state["object"], state["endpoints_serving"], state["notice"]["reason"]) == ("model.recall", 1, REASON)
    assert (await anonymous.get(f"/v1/catalog/models/{model}")).status_code == 404
    endpoint = (await deployer.http.get("/v1/endpoints")).json()["data"][0]
    assert (endpoint["is_active"], endpoint["recall"]) == (True, state["notice"])
    own = (await owner.http.get(f"/v1/models/{model}")).json()
    assert (own["is_shared"], own["catalog_role"], own["recall"]) == (False, None, state["notice"])
    assert (await actions(deployer))[0] == "endpoint.recall"
    assert (await actions(owner))[:2] == ["model.recall", "model.unshare"]


async def test_while_it_lasts_nobody_else_selects_it_and_it_cannot_be_shared(
    owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    await recall(owner, model, 3600)
    refused = await owner.http.post(f"/v1/models/{model}/share")
    assert problem(refused) == (400, "invalid_request_error", None)
    assert "Cancel the recall first" in message(refused)
    spec = {"slug": "another", "model": model, "tier": "self_hosted"}
    assert problem(await deployer.http.post("/v1/endpoints", json=spec))[2] == "model_not_found"
    await deployer.http.patch("/v1/endpoints/chat", json={"is_active": False})
    again = await deployer.http.patch("/v1/endpoints/chat", json={"is_active": True})
    assert problem(again) == (403, "permission_error", "model_recalled")
    assert REASON in message(again)
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201, "the owner is not bound"


async def test_cancelled_everything_goes_on_but_unshared_it_stays(
    app: Application, owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    await recall(owner, model, 3600)
    cancelled = await recall(owner, model, None, None)
    assert (cancelled.status_code, cancelled.json()["notice"]) == (200, None)
    assert (await recall(owner, model, None, None)).status_code == 200, "nothing to cancel is no error"
    async with app.database.write() as session:  # the deadline that was has come
        await session.execute(update(JobRow).where(JobRow.kind == STOP).values(run_after=0))
        notify(session, TOPIC, STOP)

    async def has_run() -> bool:
        return await due(app) is None

    await wait_until(has_run)
    endpoint = (await deployer.http.get("/v1/endpoints/chat")).json()
    assert (endpoint["is_active"], endpoint["recall"]) == (True, None)
    assert (await actions(deployer))[:2] == ["endpoint.recall_cancel", "endpoint.recall"]
    assert (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"] is False
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200


async def test_a_job_that_was_given_up_is_taken_up_again(
    app: Application, owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    await recall(owner, model, 3600)
    async with app.database.write() as session:
        await session.execute(delete(JobRow).where(JobRow.kind == STOP))
        await session.execute(update(RecallRow).values(deadline=1))
        await recalls.resume_overdue(session, now=app.platform.now())
    await endpoint_is(deployer, "inactive")


async def test_the_router_refuses_at_the_deadline(
    app: Application, owner: Tenant, deployer: Tenant, model: str, machine: LinkAgent, url: str
) -> None:
    headers = {"Authorization": f"Bearer {deployer.project.api_key}"}
    await recall(owner, model, 3600)
    async with httpx.AsyncClient(base_url=f"{url}/{deployer.project.id}/chat/v1", headers=headers) as http:
        assert (await http.get("/models")).status_code == 200
        async with app.database.write() as session:
            await session.execute(update(RecallRow).values(deadline=app.platform.now()))
            notify(session, MODELS_TOPIC, model)

        async def refused() -> httpx.Response | None:
            answer = await http.get("/models")
            return answer if answer.status_code != 200 else None

        answer = await wait_until(refused)
    assert problem(answer) == (503, "server_error", "endpoint_inactive")
    assert "recalled by its owner" in message(answer)


async def test_what_runs_at_the_deadline_is_cut(
    owner: Tenant, deployer: Tenant, model: str, machine: LinkAgent, url: str
) -> None:
    headers = {"Authorization": f"Bearer {deployer.project.api_key}"}
    async with (
        httpx.AsyncClient(base_url=f"{url}/{deployer.project.id}/chat/v1", headers=headers) as http,
        http.stream("POST", "/chat/completions", content=b"{}") as streamed,
        asyncio.TaskGroup() as group,
    ):
        reading = group.create_task(streamed.aread())
        await recall(owner, model, 1)
        events = (await reading).decode()
    assert events.startswith("data: 1\n\n")
    assert "recalled by its owner" in events.removeprefix("data: 1\n\n")

    async def cancelled() -> bool:
        return bool(machine.cancelled)

    await wait_until(cancelled)


async def test_a_grant_lives_no_longer_than_the_recall_lets_it(
    app: Application, owner: Tenant, deployer: Tenant, model: str, url: str, deployed: str
) -> None:
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token, agent_id=agent_id) as link:
        (held,) = await link.wanted()
        deadline = int(time.time()) + 60
        await owner.http.post(f"/v1/models/{model}/recall", json={"deadline": deadline, "reason": REASON})
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as http:
            grant = await http.post(f"/v1/agent/deployments/{held.deployment_id}/grant")
            assert grant.json()["expires_at"] == deadline
            await recall(owner, model, -1)
            await endpoint_is(deployer, "inactive")
            assert (await http.post(f"/v1/agent/deployments/{held.deployment_id}/grant")).status_code == 404


async def test_the_owners_own_endpoints_go_on(
    app: Application, owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    spec = {"slug": "own", "model": model, "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=spec)).status_code == 201
    await recall(owner, model, 0)
    await endpoint_is(deployer, "inactive")
    own = (await owner.http.get("/v1/endpoints/own")).json()
    assert (own["is_active"], own["recall"]) == (True, None)
    assert (await owner.http.get(f"/v1/models/{model}")).json()["status"] == "active"


async def test_the_platform_makes_no_new_one_for_another_project(
    app: Application, owner: Tenant, deployer: Tenant, operator: httpx.AsyncClient, model: str
) -> None:
    await recall(owner, model, 3600)
    spec = {"slug": "new", "model": model, "tier": "self_hosted"}
    refused = await operator.post(f"/{deployer.project.id}/v1/endpoints", json=spec)
    assert problem(refused) == (403, "permission_error", "model_recalled")
    assert (await operator.post(f"/{owner.project.id}/v1/endpoints", json=spec)).status_code == 201


async def test_another_projects_log_names_no_key_of_the_owner(
    owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    await recall(owner, model, 3600)
    entry = (await deployer.http.get("/v1/audit")).json()["data"][0]
    assert (entry["action"], entry["actor"], entry["reason"]) == ("endpoint.recall", "project:acme", REASON)


async def test_put_off_and_brought_forward(
    app: Application, owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    await recall(owner, model, 60)
    later = (await recall(owner, model, 3600, "A second thought.")).json()["notice"]
    assert later["reason"] == "A second thought."
    assert await due(app) == later["deadline"]
    await recall(owner, model, 0)
    await endpoint_is(deployer, "inactive")
    over = await recall(owner, model, 3600)
    assert problem(over) == (409, "conflict_error", None)
    assert problem(await recall(deployer, model, 3600))[2] == "model_not_found", "which only its owner is told"


async def test_cancelled_after_it_stopped_endpoints_they_do_not_say_recalled_any_more(
    app: Application, owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    spec = {"slug": "off", "model": model, "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    assert (await deployer.http.patch("/v1/endpoints/off", json={"is_active": False})).status_code == 200
    await recall(owner, model, 0, f"  {REASON} ")
    assert f"owner: {REASON}" in (await endpoint_is(deployer, "inactive"))["status_reason"]
    assert (await recall(owner, model, None, None)).status_code == 200
    endpoint = (await deployer.http.get("/v1/endpoints/chat")).json()
    assert (endpoint["status"], endpoint["status_reason"], endpoint["recall"]) == ("inactive", None, None)
    entries = (await deployer.http.get("/v1/audit")).json()["data"]
    assert [entry["target"] for entry in entries if entry["action"] == "endpoint.recall_cancel"] == [
        f"endpoint:{endpoint['id']}"
    ], "what its project switched off itself was not stopped"


async def test_cancelled_a_reason_in_the_words_of_an_earlier_version_goes_too(
    app: Application, owner: Tenant, deployer: Tenant, model: str, deployed: str
) -> None:
    await recall(owner, model, 0)
    await endpoint_is(deployer, "inactive")
    async with app.database.write() as session:
        await session.execute(update(EndpointRow).values(status_reason="Called back by its owner."))
    assert (await recall(owner, model, None, None)).status_code == 200
    assert (await deployer.http.get("/v1/endpoints/chat")).json()["status_reason"] is None


async def test_after_it_the_model_can_be_deleted(owner: Tenant, deployer: Tenant, model: str, deployed: str) -> None:
    await recall(owner, model, 3600)
    assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 409
    await recall(owner, model, 0)
    await endpoint_is(deployer, "inactive")
    assert (await owner.http.delete(f"/v1/models/{model}")).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"deadline": "soon", "reason": REASON},
        {"deadline": -1, "reason": REASON},
        {"deadline": 2**63, "reason": REASON},
        {"deadline": LATEST_DEADLINE + 1, "reason": REASON},
        {"deadline": 1},
        {"deadline": 1, "reason": ""},
        {"deadline": 1, "reason": " \t\n"},
        {"deadline": 1, "reason": "x" * 1001},
        {"deadline": 1, "reason": REASON, "why": 1},
        {"deadline": None, "reason": "x"},
    ],
)
async def test_rubbish(owner: Tenant, model: str, body: dict[str, Any]) -> None:
    assert problem(await owner.http.post(f"/v1/models/{model}/recall", json=body))[0] == 400
    assert (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"] is True


async def test_a_deadline_that_nobody_lives_to_see(owner: Tenant, model: str) -> None:
    refused = await owner.http.post(f"/v1/models/{model}/recall", json={"deadline": 1 << 40, "reason": REASON})
    assert message(refused) == f"`deadline`: Input should be less than or equal to {LATEST_DEADLINE}."


async def test_nobody_else(deployer: Tenant, anonymous: httpx.AsyncClient, owner: Tenant, model: str) -> None:
    body = {"deadline": 1, "reason": REASON}
    assert problem(await anonymous.post(f"/v1/models/{model}/recall", json=body)) == ANONYMOUS
    for method in ("GET", "POST"):
        path = f"/v1/models/{model}/recall"
        refused = await deployer.http.request(method, path, json=body if method == "POST" else None)
        absent = await owner.http.request(
            method, f"/v1/models/{uuid.uuid4()}/recall", json=body if method == "POST" else None
        )
        assert problem(refused) == problem(absent) == (404, "not_found_error", "model_not_found")
    bad = await owner.http.post("/v1/models/nonsense/recall", json=body)
    assert message(bad) == "Invalid model ID"
    assert (await owner.http.get(f"/v1/models/{model}")).json()["is_shared"] is True
