"""PUT /v1/uploads/{id}/files: many small files in one request."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.wire.uploads import BATCH_BYTES, BATCH_FILES, BATCH_HEAD
from uploading import error_of, open_upload, processed, put, sha256, stored_files, tiny_model

pytestmark = pytest.mark.anyio

FILES = tiny_model() | {f"extra/{number}.txt": b"%d" % number for number in range(20)}


def framed(n: int, content: bytes, *, size: int | None = None, digest: str | None = None) -> bytes:
    head = BATCH_HEAD.pack(n, len(content) if size is None else size, bytes.fromhex(digest or sha256(content)))
    return head + content


def batch(upload: Mapping[str, Any], files: Mapping[str, bytes] = FILES) -> bytes:
    return b"".join(framed(file["n"], files[file["path"]]) for file in upload["files"])


async def send(http: httpx.AsyncClient, upload: Mapping[str, Any], body: bytes) -> httpx.Response:
    return await http.put(f"/v1/uploads/{upload['id']}/files", content=body)


@pytest.mark.usefixtures("running_app")
async def test_all_files_come_by_one_request(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    for _ in range(2):  # safe to repeat
        answer = await send(owner.http, upload, batch(upload))
        assert answer.status_code == 200, answer.text
    assert {part["sha256"] for part in answer.json()["data"]} == {sha256(content) for content in FILES.values()}
    seen = (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()
    assert seen["bytes_done"] == seen["bytes_total"]
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    model = await processed(owner.http, upload)
    assert (model["status"], model["size_bytes"]) == ("ready", sum(map(len, FILES.values())))


@pytest.mark.usefixtures("running_app")
async def test_two_at_once_and_parts_beside_them(owner: Tenant, app: Application) -> None:
    upload = await open_upload(owner.http, FILES)
    first = upload["files"][0]
    answers = await asyncio.gather(
        send(owner.http, upload, batch(upload)),
        put(owner.http, upload, first["n"], 0, FILES[first["path"]]),
        send(owner.http, upload, batch(upload)),
    )
    assert {answer.status_code for answer in answers} <= {200, 409}, "a newer request replaces an older one"
    assert (await send(owner.http, upload, batch(upload))).status_code == 200
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200
    assert (await processed(owner.http, upload))["status"] == "ready"
    assert len(stored_files(app)) == len(FILES)


async def test_one_that_is_damaged_keeps_all_from_being_taken(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    body = bytearray(batch(upload))
    body[-1] ^= 1
    answer = await send(owner.http, upload, bytes(body))
    assert "Send it again" in error_of(answer, 400)
    assert answer.json()["error"]["code"] == "checksum_mismatch"
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["bytes_done"] == 0


async def test_rubbish_is_refused(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    readme = next(file["n"] for file in upload["files"] if file["path"] == "README.md")
    content = FILES["README.md"]
    for body, status, words in (
        (b"", 400, "per request"),
        (b"short", 400, "ends within a file"),
        (framed(readme, content)[:-1], 400, "ends within a file"),
        (framed(readme, content, size=1 << 63), 400, "ends within a file"),
        (framed(readme, content) * 2, 400, "each only once"),
        (b"".join(framed(number, b"x") for number in range(BATCH_FILES + 1)), 400, "per request"),
        (framed(readme, content + b"x"), 400, "README.md must have"),
        (framed(readme, b""), 400, "README.md must have"),
        (framed(999, content), 404, "no file 999"),
        (bytes(BATCH_BYTES + 1), 400, "Send fewer"),
    ):
        assert words in error_of(await send(owner.http, upload, body), status)
    assert (await owner.http.get(f"/v1/uploads/{upload['id']}")).json()["bytes_done"] == 0


async def test_other_projects_find_nothing(owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    upload = await open_upload(owner.http, FILES)
    error_of(await send(deployer.http, upload, batch(upload)), 404)
    error_of(await send(anonymous, upload, batch(upload)), 401)
    await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")
    error_of(await send(owner.http, upload, batch(upload)), 409)
