"""The page of a project's storage."""

import re
from pathlib import Path

import pytest

from conftest import client_of
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from served import wait_until
from server.web.conftest import Somebody
from storage_servers import S3Server
from uploading import pushed, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
PAGE = "/dashboard/labs/storage"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True})


async def test_a_bucket_is_set_checked_and_left(colleague: Somebody, project: str, server: S3Server) -> None:
    assert "Use a bucket of your own" in (await colleague.get(PAGE)).text
    form = {
        "url": f"s3://{server.bucket}/pages",
        "endpoint": server.endpoint,
        "identity": "keys",
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    refused = await colleague.post(PAGE, **form | {"url": "s3://nowhere/pages"})
    assert "There is no bucket nowhere" in refused.text
    assert server.secret_key not in refused.text
    assert (await colleague.post(PAGE, **form)).status_code in {200, 303}
    shown = (await colleague.get(PAGE)).text
    assert f"s3://{server.bucket}/pages" in shown
    assert "s3:ListMultipartUploadParts" in shown, "the policy to copy"
    assert server.secret_key not in shown
    assert server.access_key not in shown
    kept = {"url": form["url"], "endpoint": form["endpoint"], "identity": "kept", "region": "eu-west-1"}
    assert (await colleague.post(PAGE, **kept)).status_code in {200, 303}
    assert "eu-west-1" in (await colleague.get(PAGE)).text
    assert (await colleague.post(f"{PAGE}/check")).status_code in {200, 303}
    moved = await colleague.post(f"{PAGE}/moves", to="own", model="")
    assert moved.status_code == 303
    assert "Everything is stored there already" in (await colleague.get(PAGE)).text
    assert "stay there and work as before" in (await colleague.get(f"{PAGE}/unset")).text
    assert (await colleague.post(f"{PAGE}/unset")).status_code in {200, 303}
    assert "Use a bucket of your own" in (await colleague.get(PAGE)).text


async def test_a_model_is_published_where_it_lies(colleague: Somebody, project: str, server: S3Server) -> None:
    page = "/dashboard/labs/models/register"
    assert "Nothing is copied" in (await colleague.get(page)).text
    client = server.client()
    for path, content in tiny_model().items():
        client.put_object(Bucket=server.bucket, Key=f"theirs/llama/{path}", Body=content)
    form = {"source": f"s3://{server.bucket}/theirs/llama", "name": "llama", "endpoint": server.endpoint}
    refused = await colleague.post(page, **form, identity="kept")
    assert "your project has no storage at this endpoint" in refused.text
    keys = {"identity": "keys", "access_key_id": server.access_key, "secret_access_key": server.secret_key}
    answer = await colleague.post(page, **form, **keys, notes="In place.", latest="yes")
    assert answer.status_code in {200, 303}, answer.text
    assert server.secret_key not in answer.text
    shown = (await colleague.get("/dashboard/labs/models")).text
    assert "llama" in shown


@pytest.mark.usefixtures("running_app")
async def test_models_are_moved_and_deletion_asks_for_their_bytes(
    app: Application, colleague: Somebody, project: str, server: S3Server
) -> None:
    made = (await colleague.post("/dashboard/labs/keys/new", name="x", scopes=["models"])).text
    key = re.search(r"ms_labs_[\w-]{43}", made)
    assert key
    async with client_of(app, key[0]) as http:
        model = await pushed(http, tiny_model())
    form = {"url": f"s3://{server.bucket}/moved", "endpoint": server.endpoint, "identity": "keys"}
    form |= {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    assert (await colleague.post(PAGE, **form)).status_code in {200, 303}
    assert (await colleague.post(f"{PAGE}/moves", to="own", model="tiny")).status_code in {200, 303}

    async def is_moved() -> bool:
        return '<span class="badge good">done</span>' in (await colleague.get(PAGE)).text

    await wait_until(is_moved)
    page = f"/dashboard/labs/models/{model['id']}/delete"
    assert f"Its files in your own storage {form['url']}" in (await colleague.get(page)).text
    assert "Choose whether they are kept" in (await colleague.post(page, name="tiny")).text
    assert "Choose whether" in (await colleague.post(page, name="tiny", bytes="x")).text
    assert (await colleague.post(page, name="tiny", bytes="keep")).status_code in {200, 303}
    assert "3 files are kept in your storage" in (await colleague.get("/dashboard/labs/models")).text
