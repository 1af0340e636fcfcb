"""The storage is away, a folder or a bucket: whatever needs it is told to try again, and nothing is taken for lost."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from answers import problem
from conftest import Tenant, running
from modelshare.server.app import Application, create_app
from modelshare.server.jobs import Lease
from modelshare.server.registry.processing.jobs import process
from modelshare.server.registry.tables import VersionRow
from modelshare.server.settings import Settings
from modelshare.server.storage_errors import StorageUnavailableError
from storage_servers import S3Server, s3_server
from uploading import open_upload, opening, processed, put, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]


class Storage:
    """A store whose folder can be taken away and brought back; a bucket's server can be stopped for good."""

    def __init__(self, folder: Path, bucket: S3Server | None = None, stop: Callable[[], None] | None = None) -> None:
        self.url = bucket.url if bucket else None
        self.stop = stop
        self._folder = folder

    @contextmanager
    def away(self) -> Iterator[None]:
        aside = self._folder.rename(self._folder.with_name("aside"))
        yield
        assert not self._folder.exists(), "nothing was made in its place"
        aside.rename(self._folder)


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    if request.param == "folder":
        yield Storage(tmp_path / "data" / "storage")
        return
    with ExitStack() as running_server:
        server = running_server.enter_context(s3_server(tmp_path / "buckets"))
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield Storage(tmp_path / "buckets" / "models", server, running_server.close)


@pytest.fixture
async def app(settings: Settings, storage: Storage) -> AsyncIterator[Application]:
    async with running(create_app(settings.model_copy(update={"storage_url": storage.url}))) as application:
        yield application


async def test_a_push_under_way_is_told_to_try_again(owner: Tenant, storage: Storage) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    url = f"/v1/uploads/{upload['id']}"
    sent = await send_part(owner.http, upload, 0, files["config.json"])
    assert sent.status_code == 200, sent.text

    async def told() -> list[httpx.Response]:
        answers = await asyncio.gather(  # at once, as a client of a bucket tries several times
            owner.http.post("/v1/uploads", json=opening(files)),
            owner.http.get(url),
            owner.http.get("/v1/uploads"),
            send_part(owner.http, upload, 1, files["model.safetensors"]),
            owner.http.post(f"{url}/complete"),
        )
        return list(answers)

    if storage.stop is not None:
        storage.stop()
        answers = await told()
    else:
        with storage.away():
            answers = await told()
        assert (await open_upload(owner.http, files))["files"][0]["parts_done"] == [0]
    assert [problem(answer) for answer in answers] == [(503, "server_error", None)] * len(answers)


async def test_a_version_is_not_judged_by_a_storage_that_is_away(
    app: Application, owner: Tenant, storage: Storage
) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    for n, data in enumerate(files.values()):
        await send_part(owner.http, upload, n, data)
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    model = await processed(owner.http, upload)
    assert model["status"] == "ready"
    async with app.database.read() as session:
        version = (await session.scalars(select(VersionRow.id))).one()
    with storage.away():
        lease = Lease(uuid.uuid4(), uuid.uuid4(), str(version), 1)
        with pytest.raises(StorageUnavailableError):
            await process(app.platform, lease, fresh=True)
    assert (await owner.http.get(f"/v1/models/{model['id']}")).json()["status"] == "ready"


async def send_part(http: httpx.AsyncClient, upload: dict[str, Any], n: int, data: bytes) -> httpx.Response:
    """The whole of file `n`, to wherever its bytes go."""
    if not upload["direct"]:
        return await put(http, upload, n, 0, data)
    signed = await http.post(f"/v1/uploads/{upload['id']}/files/{n}/parts/0/url")
    if signed.status_code != 200:
        return signed
    async with httpx.AsyncClient() as bucket:
        return await bucket.put(signed.json()["url"], content=data, headers=signed.json()["headers"])
