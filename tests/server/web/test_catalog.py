"""The public catalog's list."""
import httpx
import pytest
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application
pytestmark = pytest.mark.anyio

async def test_list(app: Application, owner: Tenant, anonymous: httpx.AsyncClient) -> None:
    page = await anonymous.get("/models/catalog")
    assert page.status_code == 200, page.text
    id_ = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{id_}/share")).status_code == 200
    page = await anonymous.get("/models/catalog")
    assert page.status_code == 200, page.text
    page = await anonymous.get(f"/models/catalog/{id_}")
    assert page.status_code == 200, page.text
