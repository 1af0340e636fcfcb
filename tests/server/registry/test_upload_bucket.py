"""Uploads where the weights lie in a bucket: parts go there by presigned URLs, past this server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import Tenant
from modelshare.server.settings import Settings
from own_storage import objects
from storage_servers import s3_server
from uploading import (
    PART,
    error_of,
    missing,
    open_upload,
    opening,
    processed,
    put,
    tar_of,
    tiny_model,
    wait_until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    return tmp_path / "buckets" / "models"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    with s3_server(bucket.parent) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield settings.model_copy(update={"storage_url": server.url, "uploads_part_size": PART})


async def send(owner: Tenant, upload: dict[str, Any], files: dict[str, bytes]) -> int:
    """Sends what is missing, to where the server says."""
    parts = list(missing(upload, files))
    wanted = {"parts": [{"n": n, "k": k} for n, k, _ in parts]}
    signed = await owner.http.post(f"/v1/uploads/{upload['id']}/part-urls", json=wanted)
    assert signed.status_code == 200, signed.text
    async with httpx.AsyncClient() as bucket:
        for (_, _, data), target in zip(parts, signed.json()["data"], strict=True):
            assert "authorization" not in {name.lower() for name in target["headers"]}
            answer = await bucket.put(target["url"], content=data, headers=target["headers"])
            assert answer.status_code == 200, answer.text
    return len(parts)


async def complete(owner: Tenant, upload: dict[str, Any]) -> dict[str, Any]:
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert answer.status_code == 200, answer.text
    return await processed(owner.http, upload)


async def test_a_directory(owner: Tenant, bucket: Path) -> None:
    files = tiny_model(pad=PART) | {"empty.txt": b""}
    upload = await open_upload(owner.http, files)
    assert upload["direct"] is True
    assert await send(owner, upload, files) == 4
    seen = (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()
    assert (seen["bytes_done"], [file["parts_done"] for file in seen["files"]]) == (
        upload["bytes_total"],
        [[0], [0, 1], [0], []],
    )
    model = await complete(owner, upload)
    assert (model["status"], model["size_bytes"]) == ("ready", upload["bytes_total"])
    await wait_until(lambda: objects(bucket) == sorted(map(len, files.values())))


async def test_only_what_is_missing_is_sent(owner: Tenant) -> None:
    files = tiny_model(pad=2 * PART)
    upload = await open_upload(owner.http, files)
    weights = {"model.safetensors": files["model.safetensors"]}
    some = [file | {"parts": 2 if file["path"] in weights else 0} for file in upload["files"]]
    assert await send(owner, upload | {"files": some}, files) == 2
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete")
    assert "config.json (and 2 more) is missing" in error_of(answer, 409)
    again = await open_upload(owner.http, files)
    assert again["id"] == upload["id"]
    assert await send(owner, again, files) == 3
    assert (await complete(owner, upload))["status"] == "ready"


async def test_an_archive(owner: Tenant, bucket: Path) -> None:
    files = tiny_model()
    data = tar_of(files)
    request = {"name": "tiny", "archive": {"filename": "tiny.tar.gz", "size": len(data)}}
    upload = (await owner.http.post("/v1/uploads", json=request)).json()
    await send(owner, upload, {"tiny.tar.gz": data})
    assert (await complete(owner, upload))["status"] == "ready"
    await wait_until(lambda: objects(bucket) == sorted(map(len, files.values())))


async def test_bytes_that_are_not_those_announced(owner: Tenant) -> None:
    files = tiny_model()
    upload = (await owner.http.post("/v1/uploads", json=opening(files, claims=True))).json()
    damaged = files | {"README.md": b"!" + files["README.md"][1:]}
    await send(owner, upload, damaged)
    model = await complete(owner, upload)
    assert model["status"] == "failed"
    assert model["status_reason"].startswith("README.md does not match its announced SHA-256")


async def test_what_is_completed_is_what_its_owner_has_read(owner: Tenant) -> None:
    files = tiny_model(pad=PART)
    upload = await open_upload(owner.http, files)
    await send(owner, upload, files)
    url = f"/v1/uploads/{upload['id']}/complete"
    [weights] = [file["n"] for file in upload["files"] if file["path"] == "model.safetensors"]
    answer = await owner.http.post(url, json={"files": [{"n": weights, "parts_sha256": "0" * 64}]})
    assert "send the `sha256` of the whole file" in error_of(answer, 400), "it cannot be compared"
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["state"] == "open"
    answer = await owner.http.post(url, json={"files": [{"n": weights, "sha256": "0" * 64}]})
    assert answer.status_code == 200, "the bucket is read while it is processed"
    model = await processed(owner.http, upload)
    assert (model["status"], model["status_reason"].split(" ")[0]) == ("failed", "model.safetensors")


async def test_cancel_empties_the_bucket(owner: Tenant, bucket: Path) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    await send(owner, upload, files)
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")).status_code == 200
    await wait_until(lambda: not objects(bucket))


async def test_parts_do_not_come_through_this_server(owner: Tenant) -> None:
    files = tiny_model()
    upload = await open_upload(owner.http, files)
    answer = await put(owner.http, upload, 0, 0, files["config.json"])
    assert f"POST /v1/uploads/{upload['id']}/files/0/parts/0/url" in error_of(answer, 400)


async def test_urls_are_for_the_owner_and_for_parts_there_are(
    owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient
) -> None:
    upload = await open_upload(owner.http, tiny_model())
    part = f"/v1/uploads/{upload['id']}/files/0/parts/0/url"
    error_of(await deployer.http.post(part), 404)
    error_of(await anonymous.post(part), 401)
    error_of(await owner.http.post(f"/v1/uploads/{upload['id']}/files/0/parts/1/url"), 404)
    error_of(await owner.http.post(f"/v1/uploads/{upload['id']}/files/9/parts/0/url"), 404)
    error_of(await owner.http.post("/v1/uploads/x/files/0/parts/0/url"), 404)
    assert (await owner.http.post(part)).status_code == 200
    several = f"/v1/uploads/{upload['id']}/part-urls"

    def parts(*places: tuple[int, int]) -> dict[str, Any]:
        return {"parts": [{"n": n, "k": k} for n, k in places]}

    error_of(await deployer.http.post(several, json=parts((0, 0))), 404)
    error_of(await anonymous.post(several, json=parts((0, 0))), 401)
    assert "no file 9" in error_of(await owner.http.post(several, json=parts((0, 0), (9, 0))), 404)
    error_of(await owner.http.post(several, json=parts((0, 0), (0, 1))), 404)
    error_of(await owner.http.post(several, json=parts(*[(0, 0)] * 65)), 400)
    error_of(await owner.http.post(several, json=parts()), 400)
