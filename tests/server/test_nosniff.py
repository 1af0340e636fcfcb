"""Every answer says that it is of its own type and no other, whatever a browser would make of its content."""

import httpx
import pytest

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
from modelshare.server.storage.signed_urls import PATH

pytestmark = pytest.mark.anyio


async def test_every_answer_forbids_sniffing(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    model = await make_model(app, owner.project.id)
    project = owner.project.id
    asked = (
        ("GET", "/", 200),
        ("GET", "/models/catalog", 200),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/healthz", 200),
        ("GET", "/metrics", None),
        ("HEAD", "/v1/tiers", 200),
        ("GET", "/v1/models", 200),
        ("GET", f"/{project}/v1/models/{model}", 200),
        ("POST", f"/v1/models/{model}/share", 200),
        ("DELETE", f"/v1/models/{model}", 204),
        ("GET", "/v1/models/rubbish", 400),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/static/style.css", 200),
        ("GET", "/static/nothing", 404),
        ("GET", f"{PATH}nothing", None),
        ("POST", f"/{project}/none/v1/chat/completions", None),
        ("GET", f"/{project}/none/v1/models", None),
        ("GET", "/dashboard", 303),
    )
    for method, path, status in asked:
        answer = await owner.http.request(method, path)
        assert status in {None, answer.status_code}, (path, answer.status_code)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], (method, path, answer.status_code)
    refused = await anonymous.get("/v1/models")
    assert (refused.status_code, refused.headers["x-content-type-options"]) == (401, "nosniff")
