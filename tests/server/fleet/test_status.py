"""`GET /v1/agent/status`: the signed answer to an agent that was told it has no right to a link."""

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.db import Database
from modelshare.server.fleet.links import AgentLinks
from modelshare.server.fleet.verdicts import Verdicts
from modelshare.wire.link import CloseCode
from modelshare.wire.verdict import STATUS_PATH, Verdict, sign

pytestmark = pytest.mark.anyio
NONCE = "5e" * 32


async def enrolled(tenant: Tenant) -> tuple[str, str, str]:
    """Id, token and key of a new agent."""
    key = (await tenant.http.post("/v1/join-keys", json={"name": "box"})).json()["key"]
    answer = (await tenant.http.post("/v1/enroll", json={"join_key": key, "name": "box"})).json()
    return answer["agent_id"], answer["token"], answer["verdict_key"]


async def verdict(http: httpx.AsyncClient, agent_id: str, token: str, key: str) -> str:
    """What is said of the agent, once the signature is checked."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = await http.get(STATUS_PATH, params={"agent_id": agent_id, "nonce": NONCE}, headers=headers)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["signature"] == sign(key, nonce=NONCE, agent_id=agent_id, token=token, verdict=said["verdict"])
    return str(said["verdict"])


async def test_an_agent_learns_whether_it_is_still_part_of_the_fleet(
    deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    agent_id, token, key = await enrolled(deployer)
    assert await verdict(anonymous, agent_id, token, key) == Verdict.KNOWN
    assert (await deployer.http.patch(f"/v1/agents/{agent_id}", json={"suspended": True})).status_code == 200
    assert await verdict(anonymous, agent_id, token, key) == Verdict.KNOWN
    assert (await deployer.http.delete(f"/v1/agents/{agent_id}")).status_code == 204
    assert await verdict(anonymous, agent_id, token, key) == Verdict.REMOVED


async def test_what_the_database_does_not_know_is_signed_as_well(
    app: Application, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    agent_id, token, key = await enrolled(deployer)
    other_id, _, other_key = await enrolled(deployer)
    assert key != other_key
    assert await verdict(anonymous, agent_id, "msa_other", key) == Verdict.UNKNOWN
    assert await verdict(anonymous, other_id, token, other_key) == Verdict.UNKNOWN
    lost = "0190a6f0-0000-7000-8000-000000000000"
    assert await verdict(anonymous, lost, token, app.platform.parts[Verdicts].key_of(lost)) == Verdict.UNKNOWN


@pytest.mark.parametrize(
    "query",
    [{}, {"agent_id": "a"}, {"nonce": NONCE}, {"agent_id": "a\n", "nonce": NONCE}, {"agent_id": "a", "nonce": "5"}],
)
async def test_bad_input(anonymous: httpx.AsyncClient, query: dict[str, str]) -> None:
    answer = await anonymous.get(STATUS_PATH, params=query, headers={"Authorization": "Bearer msa_x"})
    assert answer.status_code == 400


async def test_without_a_token(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.get(STATUS_PATH, params={"agent_id": "a", "nonce": NONCE})).status_code == 401


@pytest.mark.parametrize("extensions", [{"websocket.http.response": {}}, {}])
async def test_while_the_database_is_away_a_handshake_says_try_again(extensions: dict[str, dict[str, str]]) -> None:
    away = Database("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    links = AgentLinks(away, lambda: 0.0, address="http://here", verdicts=Verdicts(b"secret"))
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    headers = [(b"authorization", b"Bearer msa_x")]
    await links.asgi({"type": "websocket", "headers": headers, "extensions": extensions}, receive, send)
    if extensions:
        assert sent[0]["status"] == 503
    else:
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
        assert sent[1]["code"] == CloseCode.TRY_AGAIN
    await away.close()
