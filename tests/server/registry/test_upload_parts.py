"""PUT /v1/uploads/{id}/files/{n}/parts/{k}."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.settings import Settings
from uploading import PART, error_of, open_upload, push, put, send, sha256, tiny_model

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * ((2 * PART + 1000) // 256)
FILES = {"model.gguf": BIG, "README.md": b"# Big"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"uploads_part_size": PART})


def part(k: int) -> bytes:
    return BIG[k * PART : (k + 1) * PART]


async def test_parts_come_in_any_order_and_at_once(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    assert (upload["part_size"], [file["parts"] for file in upload["files"]]) == (PART, [3, 1])
    answers = await asyncio.gather(*(put(owner.http, upload, 0, k, part(k)) for k in (2, 0, 1)))
    assert [answer.json()["size"] for answer in answers] == [len(part(2)), PART, PART]
    upload = await _get(owner, upload["id"])
    assert [file["parts_done"] for file in upload["files"]] == [[0, 1, 2], []]
    assert upload["bytes_done"] == len(BIG)


async def test_another_client_sees_what_is_missing(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    assert (await put(owner.http, upload, 0, 1, part(1))).status_code == 200
    seen = await _get(owner, upload["id"])
    assert [file["parts_done"] for file in seen["files"]] == [[1], []]
    assert await send(owner.http, seen, FILES) == 3
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200


async def test_sending_a_part_again_is_harmless(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    for _ in range(3):
        assert (await put(owner.http, upload, 0, 0, part(0))).status_code == 200
    assert (await _get(owner, upload["id"]))["bytes_done"] == PART


async def test_a_wrong_checksum_harms_nothing(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    assert (await put(owner.http, upload, 0, 0, part(0))).status_code == 200
    damaged = b"!" + part(0)[1:]
    for k, digest in ((0, sha256(part(0))), (1, sha256(part(1)))):
        answer = await owner.http.put(
            f"/v1/uploads/{upload['id']}/files/0/parts/{k}", content=damaged, headers={"X-Checksum-SHA256": digest}
        )
        assert "Send it again" in error_of(answer, 400)
        assert answer.json()["error"]["code"] == "checksum_mismatch"
    upload = await _get(owner, upload["id"])
    assert upload["files"][0]["parts_done"] == [0]
    await send(owner.http, upload, FILES)
    assert (await owner.http.post(f"/v1/uploads/{upload['id']}/complete")).status_code == 200


@pytest.mark.parametrize("digest", [None, "", "xyz", "0" * 63, "é"])
async def test_the_checksum_is_required(owner: Tenant, digest: str | None) -> None:
    upload = await open_upload(owner.http, FILES)
    headers = httpx.Headers({} if digest is None else {b"X-Checksum-SHA256": digest.encode()})
    answer = await owner.http.put(f"/v1/uploads/{upload['id']}/files/0/parts/0", content=part(0), headers=headers)
    assert "X-Checksum-SHA256" in error_of(answer, 400)
    assert (await _get(owner, upload["id"]))["bytes_done"] == 0


async def test_the_checksum_may_be_in_capitals(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    headers = {"X-Checksum-SHA256": sha256(part(0)).upper()}
    answer = await owner.http.put(f"/v1/uploads/{upload['id']}/files/0/parts/0", content=part(0), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("data", [b"", part(0)[:-1], part(0) + b"x"], ids=["empty", "short", "long"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_part_has_exactly_its_size(owner: Tenant, data: bytes, declared: bool) -> None:
    upload = await open_upload(owner.http, FILES)

    async def streamed() -> AsyncIterator[bytes]:
        yield data

    answer = await owner.http.put(
        f"/v1/uploads/{upload['id']}/files/0/parts/0",
        content=data if declared else streamed(),
        headers={"X-Checksum-SHA256": sha256(data)},
    )
    assert "5,242,880" in error_of(answer, 400) or "5242880" in error_of(answer, 400)
    assert (await _get(owner, upload["id"]))["bytes_done"] == 0


@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (2, 0), (10**9, 0)])
async def test_there_is_no_such_part(owner: Tenant, n: int, k: int) -> None:
    upload = await open_upload(owner.http, FILES)
    error_of(await put(owner.http, upload, n, k, part(0)), 404)


@pytest.mark.parametrize(("n", "k"), [(-1, 0), (0, -1), (1 << 40, 0), ("x", 0)])
async def test_part_numbers_are_numbers(owner: Tenant, n: int, k: int) -> None:
    upload = await open_upload(owner.http, FILES)
    error_of(await put(owner.http, upload, n, k, part(0)), 400)


async def test_a_part_puts_off_the_expiry(app: Application, owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    object.__setattr__(app.platform, "clock", lambda: upload["created_at"] + 1000.0)
    assert (await put(owner.http, upload, 1, 0, FILES["README.md"])).status_code == 200
    assert (await _get(owner, upload["id"]))["expires_at"] == upload["expires_at"] + 1000


async def test_no_part_after_the_end(owner: Tenant) -> None:
    files = tiny_model()
    upload = await push(owner.http, files)
    answer = await put(owner.http, upload, 0, 0, next(iter(files.values())))
    assert "completed" in error_of(answer, 409)
    assert answer.json()["error"]["code"] == "upload_not_open"


@pytest.mark.usefixtures("running_app")
async def test_nothing_to_send_of_a_reused_file(owner: Tenant) -> None:
    files = tiny_model()
    await push(owner.http, files)
    first = next(iter(files.values()))
    upload = await _wait_reused(owner, files)
    error_of(await put(owner.http, upload, 0, 0, first), 409)


async def test_a_folder_hands_out_no_urls(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/files/0/parts/0/url")
    assert f"PUT /v1/uploads/{upload['id']}/files/0/parts/0" in error_of(answer, 400)


async def test_other_projects_find_nothing(owner: Tenant, deployer: Tenant, anonymous: httpx.AsyncClient) -> None:
    upload = await open_upload(owner.http, FILES)
    error_of(await put(deployer.http, upload, 0, 0, part(0)), 404)
    error_of(await put(owner.http, {"id": "no-uuid"}, 0, 0, part(0)), 404)
    error_of(await put(anonymous, upload, 0, 0, part(0)), 401)
    assert (await _get(owner, upload["id"]))["bytes_done"] == 0


async def _get(owner: Tenant, upload_id: str) -> dict[str, Any]:
    answer = await owner.http.get(f"/v1/uploads/{upload_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def _wait_reused(owner: Tenant, files: dict[str, bytes]) -> dict[str, object]:
    """A session whose files are all stored already, once the project's first model is ready."""
    async with asyncio.timeout(60):
        while True:
            upload = await open_upload(owner.http, files, "copy", claims=True)
            if all(file["reused"] for file in upload["files"]):
                return upload
            await owner.http.post(f"/v1/uploads/{upload['id']}/cancel")


async def test_a_deferred_checksum_is_told_in_the_answer(owner: Tenant) -> None:
    upload = await open_upload(owner.http, FILES)
    url = f"/v1/uploads/{upload['id']}/files/0/parts/0"
    answer = await owner.http.put(url, content=part(0), headers={"X-Checksum-SHA256": "deferred"})
    assert (answer.status_code, answer.json()["sha256"]) == (200, sha256(part(0)))
    assert (await _get(owner, upload["id"]))["files"][0]["parts_sha256"] == {"0": sha256(part(0))}
