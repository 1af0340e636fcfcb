"""The keys of a project's bucket are nowhere to be read: not in database, logs, answers, errors or audit log."""

import json

import pytest
import structlog
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from conftest import Tenant
from modelshare.server import recovery
from modelshare.server.app import Application
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.settings import Settings
from storage_servers import S3Server
from stored_rows import dump
from uploading import open_upload, tiny_model

pytestmark = pytest.mark.anyio
CONTROL = "findable-prefix"
"""Is written down wherever the keys could be: what finds it would find them."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True})


async def text_of(engine: AsyncEngine) -> str:
    async with engine.connect() as connection:
        return str(await connection.run_sync(dump))


async def test_keys_are_nowhere_to_be_read(
    app: Application, server: S3Server, owner: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "url": f"s3://{server.bucket}/{CONTROL}",
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    answers = [
        await owner.http.put("/v1/storage", json=spec | {"url": f"s3://no-such-bucket/{CONTROL}"}),
        await owner.http.put("/v1/storage", json=spec | {"secret_access_key": [server.secret_key]}),
        await owner.http.put("/v1/storage", json=spec | {"role_arn": server.secret_key}),
        await owner.http.put("/v1/storage", json=spec | {"unknown": server.secret_key}),
        await owner.http.put("/v1/storage", json=spec),
        await owner.http.get("/v1/storage"),
        await owner.http.post("/v1/storage/check"),
        await owner.http.get("/v1/audit"),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 200, 200, 200, 200]
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    structlog.get_logger().info("control", url=spec["url"])
    places = {
        "answers": "".join(answer.text for answer in answers),
        "database": await text_of(app.database.engine),
        "log": "".join(capsys.readouterr()),
    }
    for place, text in places.items():
        assert CONTROL in text, place
        assert server.secret_key not in text, place
        assert server.access_key not in text, place
    signed = await owner.http.post(f"/v1/uploads/{upload['id']}/files/0/parts/0/url")
    assert server.access_key in signed.text, "every signed URL names the key's ID, which is no secret"
    assert server.secret_key not in signed.text


async def test_rotation_encrypts_anew_while_the_server_runs(
    app: Application, settings: Settings, server: S3Server, owner: Tenant
) -> None:
    spec = {
        "url": f"s3://{server.bucket}/rotated",
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    assert (await owner.http.put("/v1/storage", json=spec)).status_code == 200
    before = await text_of(app.database.engine)
    assert await recovery.rotate_secrets(settings) == 1
    assert await text_of(app.database.engine) != before
    assert (await owner.http.post("/v1/storage/check")).json()["is_working"] is True
    (app.settings.data_dir / "sealing.key").write_text("0" * 64)
    refused = await owner.http.post("/v1/storage/check")
    assert refused.status_code == 503
    assert "Set them again: `modelshare storage set`" in json.loads(refused.text)["error"]["message"]


async def test_keys_are_not_sent_to_an_endpoint_that_somebody_wrote_into_the_database(
    app: Application, server: S3Server, owner: Tenant
) -> None:
    spec = {
        "url": f"s3://{server.bucket}/bound",
        "endpoint": server.endpoint,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    assert (await owner.http.put("/v1/storage", json=spec)).status_code == 200
    async with app.database.engine.begin() as connection:
        await connection.execute(update(StorageRow).values(endpoint="http://127.0.0.1:9"))
    refused = await owner.http.post("/v1/storage/check")
    assert refused.status_code == 503
    assert "Set them again: `modelshare storage set`" in refused.json()["error"]["message"]
