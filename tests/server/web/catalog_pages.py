"""What tests of the catalog's pages need: shared models, and what a page lists."""

import re
from html import unescape

import httpx

from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

CATALOG = "/models/catalog"


async def share(app: Application, owner: Tenant, name: str, **fields: object) -> str:
    """A model that everybody sees; its id."""
    model_id = str(await make_model(app, owner.project.id, name=name, **fields))  # type: ignore[arg-type]
    assert (await owner.http.post(f"/v1/models/{model_id}/share")).status_code == 200
    return model_id


def cards(page: httpx.Response) -> list[str]:
    """Names of the models that the page lists, without the featured ones."""
    listed = page.text.rpartition('id="models"')[2] or page.text
    return re.findall(r"<h3><a [^>]*><bdi>(.*?)</bdi></a></h3>", listed)


def links(page: httpx.Response) -> list[str]:
    return [unescape(url) for url in re.findall(r'href="([^"]*)"', page.text)]
