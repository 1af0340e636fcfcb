"""Which routes answer without a key: those listed here, and no other. Read from the API's own description."""

import httpx
import pytest

from answers import ANONYMOUS, problem
from conftest import Tenant
from modelshare.server.api import api

pytestmark = pytest.mark.anyio
PUBLIC = {
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/v1/tiers"),
    ("get", "/v1/catalog/models"),
    ("get", "/v1/catalog/models/{model_id}"),
    ("get", "/v1/catalog/models/{model_id}/bom"),
    ("post", "/v1/enroll"),
    ("post", "/v1/agent/deployments/{deployment_id}/grant"),
    ("get", "/v1/agent/status"),
    ("post", "/v1/agent/held-changes"),
}
"""The last four take a join key and an agent's token instead."""


def operations() -> dict[tuple[str, str], bool]:
    """Every operation, and whether its description says that it needs a key."""
    paths = api().openapi()["paths"]
    methods = {"get", "post", "put", "patch", "delete"}
    return {
        (method, path): "security" in operation
        for path, item in paths.items()
        for method, operation in item.items()
        if method in methods
    }


async def test_every_other_route_needs_a_key(owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    found = operations()
    assert {operation for operation, keyed in found.items() if not keyed} == PUBLIC
    assert len(found) > 50
    for (method, path), keyed in found.items():
        if keyed:
            url = path.replace("{project_id}", owner.project.id).replace("{", "").replace("}", "")
            assert problem(await anonymous.request(method, url)) == ANONYMOUS, path
            named = f"/{owner.project.id}{url}"
            if path.startswith("/v1/"):
                assert problem(await anonymous.request(method, named)) == ANONYMOUS, path


async def test_platform_routes_take_no_projects_key(owner: Tenant) -> None:
    platform = [each for each in operations() if "/platform/" in each[1]]
    assert platform
    for method, path in platform:
        url = path.replace("{", "").replace("}", "")
        body: dict[str, str] | None = {} if method in {"post", "patch"} else None
        answer = await owner.http.request(method, url, json=body)
        assert answer.status_code in {400, 403}, path
        if body is None:
            assert problem(answer) == (403, "permission_error", None), path
