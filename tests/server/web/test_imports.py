"""The page of imports."""

import re
from typing import Any

import pytest

from model_sources import Hub, serving_hub
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from page_texts import lines
from served import wait_until
from server.web.conftest import Somebody
from uploading import tiny_model

pytestmark = pytest.mark.anyio
PAGE = "/dashboard/labs/models/imports"
TOKEN = "hf_" + "s3cret" * 6


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"import_allow_private": True})


async def test_a_model_is_imported(running_app: Application, colleague: Somebody, project: str) -> None:
    async with serving_hub(Hub(tiny_model())) as hub:
        form: dict[str, Any] = {"source": "hf:acme/tiny", "endpoint": hub.url, "token": TOKEN, "exclude": "*.md\r\n"}
        started = await colleague.post(PAGE, **form)
        assert (started.status_code, started.headers["location"]) == (303, PAGE)
        assert "tiny is being imported." in lines(await colleague.get(PAGE))

        async def ready() -> bool:
            return "ready" in lines(await colleague.get(PAGE))

        await wait_until(ready)
        await colleague.post(PAGE, **form)

        async def again() -> bool:
            return "nothing to update" in (await colleague.get(PAGE)).text

        await wait_until(again)
    [model] = set(re.findall(r"/models/([0-9a-f-]{36})\"", (await colleague.get(PAGE)).text))
    assert "Imported from <code>hf:acme/tiny</code>" in (await colleague.get(f"/dashboard/labs/models/{model}")).text
    assert (await colleague.post(f"/dashboard/labs/models/{model}/share", audience="public")).status_code == 303
    assert (
        "<dt>Imported from</dt><dd><code>hf:acme/tiny</code>" in (await colleague.get(f"/models/catalog/{model}")).text
    )


async def test_what_is_refused_is_said_on_the_form_and_the_token_not_shown(
    app: Application, colleague: Somebody, project: str
) -> None:
    refused = await colleague.post(PAGE, source="tiny", token=TOKEN)
    assert refused.status_code == 400
    assert "write" in refused.text
    assert 'value="tiny"' in refused.text
    assert TOKEN not in refused.text
    off = app.settings.model_copy(update={"import_enabled": False})
    object.__setattr__(app.platform, "settings", off)
    assert "Imports are turned off" in lines(await colleague.get(PAGE))
    assert (await colleague.post(PAGE, source="hf:a/b")).status_code == 403


async def test_an_import_is_cancelled(app: Application, colleague: Somebody, project: str) -> None:
    """No job runs it."""
    assert (await colleague.post(PAGE, source="hf:acme/tiny")).status_code == 303
    [cancel] = set(re.findall(r"action=\"([^\"]+/cancel)\"", (await colleague.get(PAGE)).text))
    assert (await colleague.post(cancel)).status_code == 303
    shown = lines(await colleague.get(PAGE))
    assert "cancelled" in shown
    assert "importing" not in shown
