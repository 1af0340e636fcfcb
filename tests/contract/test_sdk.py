"""The asynchronous client against the platform, on both databases."""

from collections.abc import AsyncIterator

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.client import (
    AsyncClient,
    AuthenticationError,
    CatalogFilter,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from modelshare.server.app import Application
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate
from modelshare.wire.keys import KeyCreate, ProjectCreate, Scope
from modelshare.wire.models import CatalogRole, ModelPatch
from modelshare.wire.uploads import FileEntry, UploadState, VersionOpen
from modelshare.wire.webhooks import DeliveryState, WebhookCreate, WebhookEvent, WebhookPatch

pytestmark = pytest.mark.anyio


def sdk(app: Application, key: str | None) -> AsyncClient:
    return AsyncClient("http://modelshare.test", key, transport=httpx.ASGITransport(app))


@pytest.fixture
async def mine(app: Application, owner: Tenant) -> AsyncIterator[AsyncClient]:
    async with sdk(app, owner.project.api_key) as client:
        yield client


@pytest.fixture
async def theirs(app: Application, deployer: Tenant) -> AsyncIterator[AsyncClient]:
    async with sdk(app, deployer.project.api_key) as client:
        yield client


async def test_a_model_from_one_project_to_another(
    app: Application, owner: Tenant, mine: AsyncClient, theirs: AsyncClient
) -> None:
    model_id = str(await make_model(app, owner.project.id))
    model = await mine.models.update(model_id, ModelPatch(display_name="Tiny", tags=["demo"]))
    assert (model.name, model.display_name, model.tags) == ("tiny", "Tiny", ["demo"])
    assert [version.version async for version in mine.models.versions(model_id)] == ["1.0.0"]

    upload = await mine.models.open_version(model_id, VersionOpen(files=[FileEntry(path="model.gguf", size=1)]))
    assert (upload.model, upload.version) == (model_id, "1.0.1")
    assert (await mine.uploads.cancel(upload.id)).state is UploadState.CANCELLED

    wanted = EndpointCreate(slug="chat", model=model_id, tier="self_hosted")
    with pytest.raises(NotFoundError):
        await theirs.endpoints.create(wanted)
    assert (await mine.models.share(model_id)).catalog_role is CatalogRole.DEPLOYABLE
    assert [found.id async for found in theirs.catalog.list(CatalogFilter(tag="demo"))] == [model_id]
    assert (await theirs.catalog.get(model_id)).manifest_digest == model.manifest_digest
    assert (await theirs.catalog.page(facets=True)).facets is not None

    refused = await theirs.endpoints.explain(EndpointCreate(slug="chat", model=model_id, tier="free"))
    assert not refused.possible
    assert refused.reasons[0].fix
    with pytest.raises(PermissionDeniedError) as error:
        await theirs.endpoints.create(EndpointCreate(slug="chat", model=model_id, tier="free"))
    assert (error.value.code, error.value.status) == ("tier_not_allowed", 403)
    assert refused.reasons[0].message in error.value.message

    endpoint = await theirs.endpoints.create(wanted)
    assert endpoint.base_url.endswith("/chat/v1")
    with pytest.raises(ConflictError):
        await theirs.endpoints.create(wanted)
    preview = await mine.models.preview_unshare(model_id)
    assert (preview.keeps_serving, preview.keeps_serving_other_projects) == (1, 1)
    assert (await mine.models.footprint(model_id)).endpoints_by_tier["self_hosted"] == 1
    assert not (await mine.models.unshare(model_id)).is_shared
    with pytest.raises(NotFoundError, match="Model not found or not shared"):
        await mine.models.unshare(model_id)

    assert not (await theirs.endpoints.deactivate("chat")).is_active
    with pytest.raises((PermissionDeniedError, NotFoundError)):
        await theirs.endpoints.activate("chat")
    await theirs.endpoints.delete("chat")
    assert [item async for item in theirs.endpoints.list()] == []
    await mine.models.delete(model_id)
    assert [item async for item in mine.models.list()] == []


async def test_lists_longer_than_a_page(app: Application, owner: Tenant, mine: AsyncClient) -> None:
    for number in range(5):
        await make_model(app, owner.project.id, name=f"model-{number}")
    names = [model.name async for model in mine.models.list(limit=2)]
    assert sorted(names) == [f"model-{number}" for number in range(5)]


async def test_keys(app: Application, mine: AsyncClient) -> None:
    created = await mine.keys.create(KeyCreate(name="reader", scopes=[Scope.MODELS]))
    async with sdk(app, created.key) as reader:
        assert [model async for model in reader.models.list()] == []
        with pytest.raises(PermissionDeniedError, match="endpoints"):
            await anext(reader.endpoints.list())
        rotated = await mine.keys.rotate(created.id)
        assert rotated.old_value_valid_until is not None
        await mine.keys.revoke(created.id)
        with pytest.raises(AuthenticationError, match="Authentication required"):
            await anext(reader.models.list())
    actions = [entry.action async for entry in mine.audit.list()]
    assert {"key.create", "key.rotate", "key.revoke"} <= set(actions)


async def test_join_keys_tiers_and_usage(mine: AsyncClient) -> None:
    created = await mine.join_keys.create(JoinKeyCreate(name="box", expires_in=None))
    assert created.key.startswith("msj_")
    assert created.expires_at is None
    await mine.join_keys.revoke(created.id)
    assert [key.revoked_at is not None async for key in mine.join_keys.list()] in ([], [True])
    assert "self_hosted" in [tier.slug async for tier in mine.tiers.list()]
    assert [row async for row in mine.usage.list(group_by=["model"])] == []
    assert [agent async for agent in mine.agents.list()] == []


async def test_webhooks(mine: AsyncClient, theirs: AsyncClient) -> None:
    made = await mine.webhooks.create(WebhookCreate(url="https://hooks.invalid/", events=["model.*"]))
    assert made.secret.startswith("whsec_")
    assert [hook.id async for hook in mine.webhooks.list()] == [made.id]
    assert (await mine.webhooks.update(made.id, WebhookPatch(events=[]))).events == []
    assert (await mine.webhooks.rotate_secret(made.id)).secret != made.secret
    sent = await mine.webhooks.test(made.id)
    assert [item.id async for item in mine.webhooks.deliveries(made.id)] == [sent.id]
    assert sent.id not in [item.id async for item in mine.webhooks.deliveries(made.id, state=DeliveryState.DELIVERED)]
    event = WebhookEvent.model_validate_json((await mine.webhooks.delivery(made.id, sent.id)).body)
    assert (event.id, event.type, event.data) == (sent.event, "webhook.test", {"webhook": made.id})
    assert (await mine.webhooks.redeliver(made.id, sent.id)).event == sent.event
    with pytest.raises(NotFoundError):
        await theirs.webhooks.get(made.id)
    await mine.webhooks.delete(made.id)
    with pytest.raises(NotFoundError):
        await mine.webhooks.get(made.id)


async def test_the_platforms_operator(app: Application, operator: httpx.AsyncClient) -> None:
    async with sdk(app, operator.headers["authorization"].removeprefix("Bearer ")) as platform:
        project = await platform.platform.create_project(ProjectCreate(name="New", slug="new"))
        assert project.api_key.startswith("ms_new_")
        assert "new" in [item.slug async for item in platform.platform.projects()]
        shared = await platform.platform.join_keys.create(JoinKeyCreate(name="shared", tiers=["free"]))
        assert shared.tiers == ["free"]
        model_id = str(await make_model(app, project.id))
        async with sdk(app, project.api_key) as client:
            await client.models.share(model_id)
        assert (await platform.platform.feature(model_id)).featured


async def test_a_model_id_that_is_none(mine: AsyncClient) -> None:
    with pytest.raises(InvalidRequestError, match="Invalid model ID"):
        await mine.models.get("not-an-id")
