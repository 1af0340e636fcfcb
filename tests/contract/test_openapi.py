"""The OpenAPI description and the server agree: generated requests, sound and unsound, to every operation."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckContext
from schemathesis.core.transport import Response
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from conftest import Tenant, new_tenant, running
from factories import make_model
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings
from served import serving

pytestmark = pytest.mark.anyio
Operation = APIOperation[Any, Any, Any, Any]


def no_bug(_: CheckContext, response: Response, __: Case[Any]) -> None:
    """503 is an answer (no machine, no database); 500 is none."""
    assert response.status_code != 500, response.text


CHECKS = [
    no_bug,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
few = hypothesis_settings(
    max_examples=4,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Application]:
    application = create_app(Settings(data_dir=tmp_path, public_requests_per_minute=1_000_000))
    async with running(application):
        yield application


@pytest.fixture
async def owner(app: Application) -> AsyncIterator[Tenant]:
    tenant = await new_tenant(app, "acme")
    async with tenant.http:
        yield tenant


async def known_ids(app: Application, owner: Tenant) -> dict[str, str]:
    """Path parameters that name something."""
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    endpoint = {"slug": "known", "model": str(model), "tier": "free"}
    assert (await owner.http.post("/v1/endpoints", json=endpoint)).status_code == 201
    key = (await owner.http.post("/v1/keys", json={"name": "known"})).json()
    # Names below `invalid` lead nowhere (RFC 6761).
    webhook = (await owner.http.post("/v1/webhooks", json={"url": "https://hooks.invalid/"})).json()
    delivery = (await owner.http.post(f"/v1/webhooks/{webhook['id']}/test")).json()
    upload = (await owner.http.post("/v1/uploads", json={"name": "u", "files": [{"path": "a.gguf", "size": 9}]})).json()
    return {
        "model_id": str(model),
        "version": "1.0.0",
        "slug": "known",
        "endpoint_slug": "known",
        "project_id": owner.project.id,
        "key_id": key["id"],
        "upload_id": upload["id"],
        "webhook_id": webhook["id"],
        "delivery_id": delivery["id"],
        "n": "0",
        "k": "0",
        "agent_id": str(uuid.uuid4()),
        "deployment_id": str(uuid.uuid4()),
    }


async def test_every_operation_answers_as_described(app: Application, owner: Tenant) -> None:
    async with app.database.write() as session:
        platform_key = await accounts.create_platform_key(session, "operator", now=app.platform.now())
    known = await known_ids(app, owner)
    async with serving(app) as url:

        def try_all() -> None:
            schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
            for operation in operations(schema):
                key = platform_key if "/platform/" in operation.path else owner.project.api_key
                try_operation(operation, GenerationMode.POSITIVE, key, {})
                with contextlib.suppress(Unsatisfiable):  # nothing about it can be unsound
                    try_operation(operation, GenerationMode.NEGATIVE, key, {})
                if operation.method != "delete":
                    try_operation(operation, GenerationMode.POSITIVE, key, known)

        await anyio.to_thread.run_sync(try_all)


def operations(schema: Any) -> Iterator[Operation]:
    for result in schema.get_all_operations():
        yield result.ok()


def try_operation(operation: Operation, mode: GenerationMode, key: str, known: dict[str, str]) -> None:
    @few
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers_as_described(case: Case[Any]) -> None:
        case.path_parameters = {name: known.get(name, value) for name, value in (case.path_parameters or {}).items()}
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, checks=CHECKS)

    answers_as_described()
