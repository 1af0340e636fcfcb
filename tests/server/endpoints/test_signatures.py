"""Who requires signatures: the project that deploys, the one that owns the model, and the tier."""

from pathlib import Path
from uuid import UUID

import pytest

from answers import message, problem
from conftest import Tenant
from factories import add_version, make_model
from link_agent import LinkAgent
from modelshare.server.app import Application
from modelshare.server.endpoints import service as endpoints
from modelshare.server.sharing import tiers
from modelshare.wire import signing
from modelshare.wire.link import DeploymentSignature
from modelshare.wire.signers import SignatureState
from recalling import endpoint_is
from served import wait_until
from signing_keys import private_key, public_pem, register, sign

pytestmark = pytest.mark.anyio
KEY, OTHER = private_key(), private_key("P-384")
KEY_ID = signing.key_id(KEY.public_key())
TIERS = """
[free]
name = "Free"
category = "free"
max_concurrent_requests = 5
request_timeout_seconds = 30
stream_idle_timeout_seconds = 120
may_evict = true
{signed}
[self_hosted]
name = "Self-hosted"
category = "self_hosted"
max_concurrent_requests = 5
request_timeout_seconds = 30
stream_idle_timeout_seconds = 120
may_evict = false
"""


def spec_of(model: str, **fields: str) -> dict[str, str]:
    return {"slug": "chat", "model": model, "tier": "self_hosted"} | fields


async def why_not(tenant: Tenant, spec: dict[str, str]) -> str | None:
    """Explain's only reason; create says the same."""
    explained = (await tenant.http.post("/v1/endpoints/explain", json=spec)).json()
    if explained["possible"]:
        return None
    (reason,) = explained["reasons"]
    assert reason["rule"] == "signature"
    created = await tenant.http.post("/v1/endpoints", json=spec)
    assert problem(created) == (403, "permission_error", "signature_required")
    assert message(created) == f"{reason['message']} {reason['fix']}"
    return str(reason["message"])


async def require(tenant: Tenant, **fields: object) -> None:
    answer = await tenant.http.patch("/v1/project", json={"require_signature": True} | fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["require_signature"] is True


async def test_the_deploying_project_requires_it(owner: Tenant, deployer: Tenant, model: str) -> None:
    await require(deployer)
    spec = spec_of(model)
    assert await why_not(deployer, spec) == "Your project requires a signature, and version 1.0.0 has none."
    assert await why_not(owner, spec) is None
    await sign(owner.http, model, KEY)
    assert "that its owner's project has not registered" in (await why_not(deployer, spec) or "")
    await register(owner.http, KEY)
    assert await why_not(deployer, spec) is None
    await require(deployer, allowed_signers=["0" * 64])
    assert "signed by release, which is not among" in (await why_not(deployer, spec) or "")
    await require(deployer, allowed_signers=[KEY_ID, "0" * 64])
    assert await why_not(deployer, spec) is None
    await owner.http.delete("/v1/signers/release")
    assert await why_not(deployer, spec) is None, "the deployer trusts the key itself"
    await require(deployer, allowed_signers=[])
    assert await why_not(deployer, spec) is not None


async def test_a_key_that_only_the_deployer_knows_counts_for_it(owner: Tenant, deployer: Tenant, model: str) -> None:
    await sign(owner.http, model, KEY)
    await require(deployer, allowed_signers=[KEY_ID])
    assert await why_not(deployer, spec_of(model)) is not None
    await register(deployer.http, KEY)
    assert await why_not(deployer, spec_of(model)) is None


async def test_the_owner_requires_it_for_sharing_and_for_whoever_deploys(
    app: Application, owner: Tenant, deployer: Tenant
) -> None:
    model = str(await make_model(app, owner.project.id))
    await require(owner, allowed_signers=["0" * 64])
    refused = await owner.http.post(f"/v1/models/{model}/share")
    assert refused.status_code == 400
    assert message(refused).startswith("Your project requires signatures, and this version has no valid one.")
    await sign(owner.http, model, KEY)
    await register(owner.http, KEY)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    assert await why_not(owner, spec_of(model, slug="own")) is None, "its own signers count for its own models"
    assert await why_not(deployer, spec_of(model)) is None
    await owner.http.delete("/v1/signers/release")
    assert "The model's owner requires a signature" in (await why_not(deployer, spec_of(model)) or "")


@pytest.mark.parametrize(
    "allowed", ["", "allowed_signers = ['{id}']", "allowed_signers = ['''{pem}''']"], ids=["any", "id", "pem"]
)
async def test_a_tier_requires_it(tmp_path: Path, app: Application, owner: Tenant, allowed: str) -> None:
    file = tmp_path / "tiers.toml"
    keys = allowed.format(id=KEY_ID, pem=public_pem(KEY))
    file.write_text(TIERS.format(signed=f"require_signature = true\n{keys}"))
    read = tiers.load(file).get("free")
    assert read is not None
    assert read.allowed_signers == ([KEY_ID] if allowed else [])
    app.platform.tiers._tiers["free"] = read
    model = str(await make_model(app, owner.project.id))
    spec = spec_of(model, tier="free")
    assert await why_not(owner, spec) == "The tier `free` requires a signature, and version 1.0.0 has none."
    assert (await owner.http.post("/v1/endpoints", json=spec_of(model))).status_code == 201
    moved = await owner.http.patch("/v1/endpoints/chat", json={"tier": "free"})
    assert problem(moved) == (403, "permission_error", "signature_required")
    await register(owner.http, OTHER, "other")
    await sign(owner.http, model, OTHER)
    assert (await why_not(owner, spec_of(model, slug="x", tier="free")) is None) is not bool(allowed)
    await register(owner.http, KEY)
    await sign(owner.http, model, KEY)
    assert (await owner.http.patch("/v1/endpoints/chat", json={"tier": "free"})).status_code == 200
    await add_version(app, UUID(model), "2.0.0")
    assert (await owner.http.post(f"/v1/models/{model}/versions/2.0.0/promote")).status_code == 200
    assert await resolved(owner) == "1.0.0", "what follows the latest version stays at the signed one"
    async with app.database.write() as session:  # as after a restart with another tiers file
        await endpoints.note_tiers(session, tiers.load(None))
    assert await resolved(owner) == "2.0.0"


async def resolved(tenant: Tenant) -> str | None:
    version = (await tenant.http.get("/v1/endpoints/chat")).json()["resolved_version"]
    return str(version) if version else None


async def test_what_follows_stays_at_the_last_signed_version(
    app: Application, owner: Tenant, deployer: Tenant, model: str
) -> None:
    await register(owner.http, KEY)
    await sign(owner.http, model, KEY)
    await require(deployer)
    assert (await deployer.http.post("/v1/endpoints", json=spec_of(model))).status_code == 201
    await add_version(app, UUID(model), "1.1.0")
    await owner.http.post(f"/v1/models/{model}/versions/1.1.0/promote")
    shown = (await deployer.http.get("/v1/endpoints/chat")).json()
    assert (shown["version"], shown["resolved_version"]) == ("latest", "1.0.0")
    assert "version 1.1.0 has none. The endpoint stays at 1.0.0." in shown["status_reason"]
    pinned = await deployer.http.patch("/v1/endpoints/chat", json={"version": "1.1.0"})
    assert problem(pinned) == (403, "permission_error", "signature_required")
    for active in (False, True):
        switched = await deployer.http.patch("/v1/endpoints/chat", json={"is_active": active})
        assert switched.status_code == 200, switched.text
    await sign(owner.http, model, KEY, "1.1.0")
    assert (await deployer.http.get("/v1/endpoints/chat")).json()["resolved_version"] == "1.1.0"


async def test_project_settings_are_checked_and_kept(owner: Tenant) -> None:
    answer = (await owner.http.get("/v1/project")).json()
    assert (answer["require_signature"], answer["allowed_signers"]) == (False, [])
    for fields in ({"allowed_signers": ["release"]}, {"allowed_signers": ["A" * 64]}, {"quota_bytes": 1}, {"x": 1}):
        assert (await owner.http.patch("/v1/project", json=fields)).status_code == 400
    await require(owner, allowed_signers=[KEY_ID, KEY_ID])
    assert (await owner.http.patch("/v1/project", json={})).json()["allowed_signers"] == [KEY_ID]
    entries = (await owner.http.get("/v1/audit?action=project.change_signatures")).json()["data"]
    assert [entry["details"]["required"] for entry in entries] == [True]


async def test_agents_get_the_signature_and_what_runs_goes_on_without(
    owner: Tenant, deployer: Tenant, model: str, machine: LinkAgent
) -> None:
    [held] = await machine.wanted(1)
    assert held.signature is None
    await register(owner.http, KEY)
    await sign(owner.http, model, KEY)

    async def told() -> DeploymentSignature | None:
        return (await machine.wanted(1))[0].signature

    signature = await wait_until(told)
    assert signature.keys == [public_pem(KEY)]
    files = {file.path: file.sha256 for file in held.files}
    assert signing.verify(signature.bundle, [KEY.public_key()], files) == KEY_ID
    await require(deployer)
    await owner.http.delete("/v1/signers/release")
    state = (await owner.http.get(f"/v1/models/{model}")).json()["signature"]["state"]
    assert state == SignatureState.UNKNOWN_SIGNER
    await endpoint_is(deployer, "active")
