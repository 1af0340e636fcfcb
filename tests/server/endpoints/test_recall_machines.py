"""Recalls and machines: who deletes the weights, who confirms it, and who no longer can."""

import uuid
from typing import Any

import pytest
from sqlalchemy import update

from answers import problem
from conftest import Tenant
from link_agent import LinkAgent, enroll, linked
from modelshare.server.app import Application
from modelshare.server.fleet.tables import WeightDeletionRow
from modelshare.wire.link import Released
from recalling import REASON, actions, endpoint_is, holding, recall
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_at_the_deadline_endpoints_stop_and_machines_delete(
    owner: Tenant, deployer: Tenant, model: str, machine: LinkAgent, url: str
) -> None:
    (held,) = await machine.wanted()
    await recall(owner, model, 2)
    assert await holding(owner, model) == 1
    stopped = await endpoint_is(deployer, "inactive")
    assert REASON in stopped["status_reason"]
    assert stopped["recall"]["stopped_at"] >= stopped["recall"]["deadline"]
    assert await machine.wanted(0) == []

    async def released() -> list[dict[str, Any]] | None:
        state = (await owner.http.get(f"/v1/models/{model}/recall")).json()
        assert state["endpoints_serving"] == 0
        return list(state["weight_deletions"])

    (release,) = await wait_until(released)
    assert await holding(owner, model) == 1, "it was told, and has not said that they are deleted"
    assert (release["deployment"], release["project"]) == (held.deployment_id, deployer.project.name)
    assert release["confirmed_at"] is None
    await machine.send(Released(held.deployment_id))

    async def confirmed() -> bool:
        return bool((await owner.http.get(f"/v1/models/{model}/recall")).json()["weight_deletions"][0]["confirmed_at"])

    await wait_until(confirmed)
    assert await holding(owner, model) == 0
    assert (await actions(owner))[0] == "agent.delete_weights"
    assert (await actions(deployer))[:2] == ["agent.delete_weights", "endpoint.stop"]


async def test_a_machine_that_left_before_and_has_not_confirmed_is_shown(
    app: Application, owner: Tenant, deployer: Tenant, model: str, url: str, deployed: str
) -> None:
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token, agent_id=agent_id) as link:
        (held,) = await link.wanted()
        assert (await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})).status_code == 200
    async with app.database.write() as session:
        await session.execute(update(WeightDeletionRow).values(asked_at=1))
    state = (await recall(owner, model, 3600)).json()
    assert [(row["deployment"], row["confirmed_at"]) for row in state["weight_deletions"]] == [
        (held.deployment_id, None)
    ]


@pytest.mark.parametrize("left", ["stopped", "suspended", "removed"])
async def test_a_machine_that_is_away_counts_until_it_confirms(
    owner: Tenant, deployer: Tenant, model: str, url: str, deployed: str, left: str
) -> None:
    agent_id, token = await enroll(deployer.http)
    async with linked(url, token, agent_id=agent_id) as link:
        (held,) = await link.wanted()
        if left == "suspended":
            await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})
        elif left == "removed":
            await deployer.http.delete(f"/v1/agents/{agent_id}")
    await recall(owner, model, 0)

    async def told() -> dict[str, Any] | None:
        state = (await owner.http.get(f"/v1/models/{model}/recall")).json()
        return dict(state) if state["weight_deletions"] and state["notice"]["stopped_at"] else None

    for state in (await wait_until(told), (await recall(owner, model, None, None)).json()):
        assert state["machines_holding"] == 1
        assert [(row["deployment"], row["confirmed_at"]) for row in state["weight_deletions"]] == [
            (held.deployment_id, None)
        ]
    if left == "removed":
        return  # its token is dead: it cannot say anything any more
    await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": False})
    async with linked(url, token, agent_id=agent_id) as link:
        await link.send(Released(held.deployment_id))

        async def gone() -> bool:
            return await holding(owner, model) == 0

        await wait_until(gone)
    assert (await owner.http.get(f"/v1/models/{model}/recall")).json()["weight_deletions"] == [], "the recall is over"


async def test_the_owner_closes_what_a_removed_machine_can_never_confirm(
    owner: Tenant, deployer: Tenant, model: str, url: str, deployed: str
) -> None:
    agent_id, token = await enroll(deployer.http)
    await recall(owner, model, 3600)  # first: what was told to be deleted before is listed until it is closed
    async with linked(url, token, agent_id=agent_id) as link:
        (held,) = await link.wanted()
        await deployer.http.delete(f"/v1/agents/{agent_id}")
    assert await holding(owner, model) == 1
    close = f"/v1/models/{model}/weight-deletions/{held.deployment_id}/close"
    assert (await deployer.http.post(close)).status_code == 404, "the weights are not theirs"
    assert problem(await owner.http.post(close.replace(held.deployment_id, str(uuid.uuid4()))))[0] == 404
    assert problem(await owner.http.post(close.replace(held.deployment_id, "rubbish")))[0] == 404
    closed = (await owner.http.post(close)).json()
    assert closed["confirmed_at"] is None
    assert closed["closed_at"] >= closed["asked_at"]
    assert (await owner.http.post(close)).json() == closed, "once more changes nothing"
    assert await holding(owner, model) == 0
    [told] = (await owner.http.get(f"/v1/models/{model}/recall")).json()["weight_deletions"]
    assert told == closed
    for tenant, actor in ((owner, "key:"), (deployer, "project:acme")):
        log = (await tenant.http.get("/v1/audit?action=weight_deletion.close")).json()["data"]
        assert [(entry["target"], entry["actor"].startswith(actor)) for entry in log] == [
            (f"deployment:{held.deployment_id}", True)
        ]


async def test_a_machine_that_comes_back_confirms_what_was_closed(
    owner: Tenant, deployer: Tenant, model: str, url: str, deployed: str
) -> None:
    agent_id, token = await enroll(deployer.http)
    await recall(owner, model, 3600)  # first: what was told to be deleted before is listed until it is confirmed
    async with linked(url, token, agent_id=agent_id) as link:
        (held,) = await link.wanted()
        await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})
    close = f"/v1/models/{model}/weight-deletions/{held.deployment_id}/close"
    assert (await owner.http.post(close)).status_code == 200
    await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": False})
    async with linked(url, token, agent_id=agent_id) as link:
        await link.send(Released(held.deployment_id))

        async def confirmed() -> bool:
            [told] = (await owner.http.get(f"/v1/models/{model}/recall")).json()["weight_deletions"]
            return told["confirmed_at"] is not None

        await wait_until(confirmed)
    assert problem(await owner.http.post(close))[0] == 409


async def test_a_machine_counts_once_and_the_owners_own_do_not(
    owner: Tenant, deployer: Tenant, model: str, url: str, deployed: str
) -> None:
    await owner.http.post("/v1/endpoints", json={"slug": "own", "model": model, "tier": "self_hosted"})
    for tenant in (owner, deployer):
        agent_id, token = await enroll(tenant.http)
        async with linked(url, token, agent_id=agent_id) as link:
            await link.wanted()
            for suspended in (True, False):
                await tenant.http.patch(f"/v1/agents/{agent_id}", json={"suspended": suspended})
        async with linked(url, token, agent_id=agent_id) as link:
            await link.wanted()
    state = (await owner.http.get(f"/v1/models/{model}/recall")).json()
    assert (state["machines_holding"], len(state["weight_deletions"])) == (1, 1), (
        "told to let go of it once, and holds it again"
    )
