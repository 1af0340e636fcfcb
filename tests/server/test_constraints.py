"""What the database itself refuses, whoever writes: each rule broken with plain SQL, on both databases."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.db import is_unique_violation
from modelshare.server.registry.tables import VersionRow
from modelshare.server.sharing.tables import ClaimLinkRow

pytestmark = pytest.mark.anyio

CHECKS = {
    "ck_shares_role": "UPDATE shares SET role = 'owner'",
    "ck_shares_shared_role_in_use": "UPDATE shares SET role = 'shared', shared_tier_endpoints = 0",
    "ck_shares_shared_tier_endpoints": "UPDATE shares SET role = 'deployable', shared_tier_endpoints = -1",
    "ck_shares_deployment_count": "UPDATE shares SET deployment_count = shared_tier_endpoints - 1",
    "ck_shares_audience": "UPDATE shares SET audience = 'friends', featured = false",
    "ck_shares_featured_is_public": "UPDATE shares SET audience = 'targeted', featured = true",
    "ck_share_links_uses": "UPDATE share_links SET uses = 2, max_uses = 1",
    "ck_models_foreign_endpoints": "UPDATE models SET foreign_endpoints = active_endpoints + 1",
    "ck_models_foreign_endpoints_count": "UPDATE models SET foreign_endpoints = -1",
    "ck_models_shared_tier_endpoints": "UPDATE models SET shared_tier_endpoints = active_endpoints + 1",
    "ck_model_versions_status": "UPDATE model_versions SET status = 'active', is_latest = false",
    "ck_model_versions_latest_is_ready": "UPDATE model_versions SET status = 'failed' WHERE is_latest",
    "ck_model_versions_ready_has_manifest": "UPDATE model_versions SET manifest = NULL",
    "ck_endpoints_status": "UPDATE endpoints SET status = 'paused', is_active = true",
    "ck_endpoints_active_status": "UPDATE endpoints SET status = 'inactive'",
    "ck_endpoints_inactive_status": "UPDATE endpoints SET is_active = false",
}
UNIQUE = {
    "one latest version": "UPDATE model_versions SET is_latest = true",
    "a version's number, of a model": "UPDATE model_versions SET version = '1.0.0'",
    "a model's name, of a project": "UPDATE models SET name = 'tiny'",
    "an endpoint's slug, of a project": "UPDATE endpoints SET slug = 'one'",
    "a project's slug": "UPDATE projects SET slug = 'acme'",
    "a model's share": "INSERT INTO shares SELECT * FROM shares",
}
REFERENCES = {
    "no share without a model": "UPDATE shares SET model_id = (SELECT id FROM endpoints LIMIT 1)",
    "no endpoint without a project": "UPDATE endpoints SET project_id = 'proj_none'",
    "no version without a model": (
        "UPDATE model_versions SET model_id = (SELECT id FROM endpoints LIMIT 1) WHERE NOT is_latest"
    ),
}
PRESENT = {
    "no share without a role": "UPDATE shares SET role = NULL",
    "no share without a count": "UPDATE shares SET deployment_count = NULL",
}


@pytest.fixture
async def filled(app: Application, owner: Tenant, deployer: Tenant) -> Application:
    """Two models, one of them shared, with two ready versions, two endpoints, and a claim link."""
    model = await make_model(app, owner.project.id)
    await make_model(app, owner.project.id, name="other")
    await owner.http.post(f"/v1/models/{model}/share")
    for slug in ("one", "two"):
        body = {"slug": slug, "model": str(model), "tier": "free"}
        assert (await owner.http.post("/v1/endpoints", json=body)).status_code == 201
    async with app.database.write() as session:
        row = await session.scalar(select(VersionRow).where(VersionRow.model_id == model))
        assert row is not None
        newer = VersionRow(model_id=model, version="1.0.1", status="ready", manifest=row.manifest, created_at=0)
        session.add_all([newer, ClaimLinkRow(model_id=model, hash="x", created_at=0)])
    return app


async def refused(app: Application, statement: str) -> IntegrityError:
    with pytest.raises(IntegrityError) as error:
        async with app.database.write() as session:
            await session.execute(text(statement))
    return error.value


async def test_checks(filled: Application) -> None:
    for name, statement in CHECKS.items():
        assert name in str((await refused(filled, statement)).orig), name


async def test_uniqueness(filled: Application) -> None:
    for what, statement in UNIQUE.items():
        assert is_unique_violation(await refused(filled, statement)), what


async def test_references_and_presence(filled: Application) -> None:
    for what, statement in {**REFERENCES, **PRESENT}.items():
        error = await refused(filled, statement)
        assert not is_unique_violation(error), what
        assert ("foreign key" if what in REFERENCES else "null") in str(error.orig).lower(), what


async def test_a_share_goes_with_its_model(filled: Application) -> None:
    """No footprint outlives the model; its endpoints stay, without it."""
    async with filled.database.write() as session:
        await session.execute(text("DELETE FROM models"))
        for table, rows in {"shares": 0, "share_links": 0, "model_versions": 0, "endpoints": 2}.items():
            assert await session.scalar(text(f"SELECT count(*) FROM {table}")) == rows, table
        assert await session.scalar(text("SELECT count(model_id) FROM endpoints")) == 0
