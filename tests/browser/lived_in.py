"""A platform as it looks after some weeks: projects, models of several families, machines, usage, webhooks."""

import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from conftest import Tenant, new_tenant
from factories import add_version, make_model
from link_agent import LinkAgent, enroll, linked
from modelshare.server.accounts.tables import KeyRow
from modelshare.server.app import Application
from modelshare.server.endpoints.tables import EndpointRow, UsageRow
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.registry.tables import ModelRow
from modelshare.wire.agents import Phase
from served import wait_until

FAMILIES = ("llama", "qwen2", "mistral", "gemma", "phi", "bert", "mixtral", "falcon")
LICENCES = ("apache-2.0", "mit", "llama3.1", "cc-by-4.0")
TAGS = ("chat", "code", "embeddings", "multilingual", "reasoning", "vision", "small")
SIZES = (22_000_000, 135_000_000, 1_100_000_000, 2_800_000_000, 7_200_000_000, 13_000_000_000, 70_000_000_000)
CARD = """# Tiny chat

A small model that answers **exactly one sentence**. It is here to try the platform.

## Use

```python
client.chat.completions.create(model="acme/tiny-chat", messages=[{"role": "user", "content": "Hello!"}])
```

| figure | value |
| --- | --- |
| parameters | 1 M |
| context | 2,048 |

[Where it comes from](https://example.org/tiny) ![a plot](https://example.org/plot.png)
"""


@dataclass(frozen=True)
class LivedIn:
    """What pages are asked for."""

    model: str
    """Of `acme`: shared, and deployed by `borg`."""
    targeted: str
    """Of `acme`, shown to who claims a link."""
    private: str
    recalled: str
    webhook: str
    key: str
    agent: str


@asynccontextmanager
async def lived_in(app: Application, url: str, owner: Tenant, deployer: Tenant) -> AsyncIterator[LivedIn]:
    """`owner` shares, `deployer` runs; the machine is linked as long as the block."""
    await _shelf(app)
    model, private, recalled, targeted = [
        str(await make_model(app, owner.project.id, name=name, size=4_200_000_000, parameters=7_200_000_000))
        for name in ("tiny-chat", "draft", "old-chat", "partners-only")
    ]
    await make_model(app, owner.project.id, name="broken", status="failed")
    await _card(app, model)
    await add_version(app, uuid.UUID(model), "1.1.0")
    for version, notes in (("1.0.0", "The first one.\nMind its template."), ("1.1.0", "Answers better. " * 60)):
        await owner.http.patch(f"/v1/models/{model}/versions/{version}", json={"version_notes": notes})
    for each in (model, recalled):
        await _ok(owner, f"/v1/models/{each}/share")
    await _ok(owner, f"/v1/models/{targeted}/share", audience={"link": {"expires_in": 86_400, "max_uses": 3}})
    agent_id, token = await enroll(deployer.http, name="workstation")
    for slug, each in (("chat", model), ("support", model), ("archive", recalled)):
        await _ok(deployer, "/v1/endpoints", slug=slug, model=each, tier="self_hosted")
    await _ok(deployer, "/v1/endpoints", slug="shared-tier", model=model, tier="gpu_nvidia_shared", status=403)
    deadline = int(time.time()) + 3 * 86_400
    await _ok(owner, f"/v1/models/{recalled}/recall", deadline=deadline, reason="Its licence was withdrawn.")
    webhook = await _ok(owner, "/v1/webhooks", url="http://127.0.0.1:9/hook", events=["model.shared"])
    await _ok(owner, f"/v1/webhooks/{webhook['id']}/test")
    key = await _ok(owner, "/v1/keys", name="deploy bot", scopes=["models", "endpoints"])
    await _imports(app, owner)
    for tenant in (owner, deployer):
        await _used(app, tenant)
    async with linked(url, token, agent_id=agent_id) as link:
        await _one_ready_one_pulling(link, deployer)
        yield LivedIn(model, targeted, private, recalled, webhook["id"], key["id"], agent_id)


async def _shelf(app: Application) -> None:
    """The catalog: two dozen models of other projects."""
    chance = random.Random(4)
    for slug in ("northwind", "lumen"):
        tenant = await new_tenant(app, slug)
        async with tenant.http:
            for number in range(12):
                family, size = FAMILIES[number % len(FAMILIES)], chance.choice(SIZES)
                name = f"{family}-{number}{'-instruct' if number % 2 else ''}"
                model = await make_model(
                    app, tenant.project.id, name=name, family=family, parameters=size, size=size * 2,
                    tags=tuple(chance.sample(TAGS, 2)), license=chance.choice(LICENCES),
                )  # fmt: skip
                await _ok(tenant, f"/v1/models/{model}/share")


async def _imports(app: Application, owner: Tenant) -> None:
    """One in progress, and one that failed; no job runs them."""
    now = app.platform.now()
    same = {"project_id": owner.project.id, "actor": "key:k", "created_at": now, "progressed_at": now}
    hub = "https://huggingface.co"
    private = "`registry.example.org` has no `acme/private`, or does not show it without a token (`--token-file`)."
    failed = {"source": "oci:registry.example.org/acme/private:1.0", "name": "private", "reason": private}
    running = {"source": "hf:northwind/phi-4-instruct@main", "name": "phi-4-instruct", "version_name": "1.0.0"}
    size = {"files": 9, "bytes_total": 29_000_000_000, "bytes_done": 12_300_000_000}
    async with app.database.write() as session:
        session.add(ImportRow(**same, endpoint="https://registry.example.org", state="failed", ended_at=now, **failed))
        session.add(ImportRow(**same, endpoint=hub, state="importing", **running, **size))


async def _card(app: Application, model: str) -> None:
    async with app.database.write() as session:
        row = await session.get(ModelRow, uuid.UUID(model))
        assert row is not None
        row.card = CARD
        row.description = "A small model that answers exactly one sentence, to try the platform with."


async def _one_ready_one_pulling(link: LinkAgent, deployer: Tenant) -> None:
    first, second = await link.wanted(2)
    await link.report(first.deployment_id, Phase.READY)
    await link.report(second.deployment_id, Phase.PULLING, bytes_done=1_300_000_000, bytes_total=4_200_000_000)

    async def shows() -> bool:
        rows = (await deployer.http.get("/v1/endpoints")).json()["data"]
        return {row["status"] for row in rows} >= {"active", "provisioning"}

    await wait_until(shows)


async def _used(app: Application, tenant: Tenant) -> None:
    """Thirty days of traffic."""
    chance = random.Random(7)
    async with app.database.write() as session:
        endpoints = (
            await session.scalars(select(EndpointRow).where(EndpointRow.project_id == tenant.project.id))
        ).all()
        key = (await session.scalars(select(KeyRow.id).where(KeyRow.project_id == tenant.project.id))).first()
        for endpoint in endpoints:
            for back in range(30):
                day = time.strftime("%Y-%m-%d", time.gmtime(app.platform.now() - back * 86_400))
                requests = chance.randrange(40, 900)
                session.add(
                    UsageRow(
                        day=day, endpoint_id=endpoint.id, key_id=key, project_id=tenant.project.id,
                        endpoint_slug=endpoint.slug, model_id=endpoint.model_id, requests=requests,
                        errors=requests // 90,
                        prompt_tokens=requests * 210, completion_tokens=requests * 160,
                    )
                )  # fmt: skip


async def _ok(tenant: Tenant, path: str, status: int = 0, **body: Any) -> dict[str, Any]:
    answer = await tenant.http.post(path, json=body or None)
    assert answer.status_code == status or answer.is_success, answer.text
    return dict(answer.json())
