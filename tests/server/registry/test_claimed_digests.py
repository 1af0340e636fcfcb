"""Pushes to a bucket of the project's own whose parts the bucket vouches for: the platform does not read them again."""

import hashlib
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.registry.tables import BlobRow
from modelshare.server.settings import Settings
from modelshare.wire.uploads import md5_of_parts
from own_storage import set_storage
from served import wait_until
from storage_servers import S3Server
from uploading import PART, Files, missing, open_upload, processed, pushed, sha256, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
WEIGHTS = "model.safetensors"
FILES = tiny_model(pad=PART)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"storage_allow_private": True, "uploads_part_size": PART})


def md5_of(data: bytes) -> str:
    parts = [data[start : start + PART] for start in range(0, len(data), PART)]
    return md5_of_parts(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)


async def push(owner: Tenant, files: Files, claims: Files | None = None, **fields: Any) -> dict[str, Any]:
    """The version, pushed to the bucket. `claims`: files whose digests the client states instead."""
    upload = await open_upload(owner.http, claims or files, claims=claims is not None, **fields)
    async with httpx.AsyncClient() as http:
        for n, k, data in list(missing(upload, files)):
            signed = (await owner.http.post(f"/v1/uploads/{upload['id']}/files/{n}/parts/{k}/url")).json()
            assert (await http.put(signed["url"], content=data, headers=signed["headers"])).status_code == 200
    digests = [
        {"n": file["n"], "sha256": sha256((claims or files)[file["path"]]), "parts_md5": md5_of(files[file["path"]])}
        for file in upload["files"]
    ]
    answer = await owner.http.post(f"/v1/uploads/{upload['id']}/complete", json={"files": digests})
    assert answer.status_code == 200, answer.text
    await processed(owner.http, upload)
    return await version_of(owner, upload["model"], upload["version"])


async def version_of(owner: Tenant, model: str, number: str) -> dict[str, Any]:
    versions = (await owner.http.get(f"/v1/models/{model}/versions")).json()["data"]
    return next(each | {"model": model} for each in versions if each["version"] == number)


async def proven(app: Application) -> dict[str, bool]:
    """Whether the platform has hashed the bytes itself, by digest."""
    async with app.database.read() as session:
        return {row.sha256: bool(row.proven_at) for row in await session.scalars(select(BlobRow))}


async def revalidated(owner: Tenant, version: dict[str, Any]) -> dict[str, Any]:
    """The version, once its status or its digests are others."""
    assert (await owner.http.post(f"/v1/models/{version['model']}/revalidate")).status_code == 200

    async def changed() -> dict[str, Any] | None:
        now = await version_of(owner, version["model"], version["version"])
        return now if now["status"] == "failed" or now["digests"] != version["digests"] else None

    return await wait_until(changed)


async def test_what_the_bucket_vouches_for_is_not_read_and_the_version_says_so(
    app: Application, server: S3Server, owner: Tenant
) -> None:
    await set_storage(server, owner)
    version = await push(owner, FILES)
    assert (version["status"], version["digests"]) == ("ready", "owner")
    assert set((await proven(app)).values()) == {False}
    manifest = (await owner.http.get(f"/v1/models/{version['model']}/versions/1.0.0/manifest")).json()
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == {path: sha256(FILES[path]) for path in FILES}
    assert manifest["facts"]["digests"] == "owner"
    assert (await push(owner, FILES, FILES, name="same"))["digests"] == "owner", "nothing was sent, nor read"
    assert (await revalidated(owner, version))["digests"] == "platform"
    assert set((await proven(app)).values()) == {True}
    assert (await push(owner, FILES, FILES, name="again"))["digests"] == "platform"


async def test_other_parts_than_the_client_read_are_found(app: Application, server: S3Server, owner: Tenant) -> None:
    await set_storage(server, owner)
    damaged = FILES | {WEIGHTS: FILES[WEIGHTS][:-1] + b"\xff"}
    upload = await open_upload(owner.http, FILES)
    async with httpx.AsyncClient() as http:
        for n, k, data in list(missing(upload, damaged)):
            signed = (await owner.http.post(f"/v1/uploads/{upload['id']}/files/{n}/parts/{k}/url")).json()
            await http.put(signed["url"], content=data, headers=signed["headers"])
    digests = [
        {"n": file["n"], "sha256": sha256(FILES[file["path"]]), "parts_md5": md5_of(FILES[file["path"]])}
        for file in upload["files"]
    ]
    await owner.http.post(f"/v1/uploads/{upload['id']}/complete", json={"files": digests})
    model = await processed(owner.http, upload)
    assert model["status"] == "failed"
    assert f"{WEIGHTS} does not match its announced SHA-256" in model["status_reason"]


async def test_a_false_claim_harms_only_its_project_and_can_be_repaired(
    app: Application, server: S3Server, owner: Tenant, deployer: Tenant
) -> None:
    """Whoever pulls compares; once the platform has read the bytes, they are not used again."""
    await set_storage(server, owner)
    false = FILES | {WEIGHTS: FILES[WEIGHTS][:-1] + b"\xff"}
    version = await push(owner, false, FILES)
    assert (version["status"], version["digests"]) == ("ready", "owner")
    upload = await open_upload(deployer.http, FILES, claims=True)
    assert not any(file["reused"] for file in upload["files"]), "another project sends its own bytes"
    failed = await revalidated(owner, version)
    assert failed["status_reason"].startswith(f"{WEIGHTS} has been damaged in storage.")
    upload = await open_upload(owner.http, FILES, claims=True)
    assert [file["path"] for file in upload["files"] if not file["reused"]] == [WEIGHTS]
    assert (await push(owner, FILES, FILES))["status"] == "ready"
    assert (await proven(app))[sha256(FILES[WEIGHTS])] is False
    assert (await revalidated(owner, await version_of(owner, version["model"], "1.0.1")))["digests"] == "platform"


async def test_on_the_platforms_own_storage_every_byte_is_read(app: Application, owner: Tenant) -> None:
    model = await pushed(owner.http, FILES)
    assert (await version_of(owner, model["id"], "1.0.0"))["digests"] == "platform"
    assert set((await proven(app)).values()) == {True}
