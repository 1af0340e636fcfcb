"""Pushes and pulls through the forms of other clients, where the project's storage is a bucket of its own."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from conftest import Tenant
from modelshare.server.app import Application
from modelshare.server.hub.hugging_face import xet
from modelshare.server.hub.hugging_face.git_objects import is_large
from modelshare.server.hub.tables import XorbRow
from modelshare.server.registry.blobs import queries as blobs
from modelshare.server.registry.storages.tables import StorageRow
from modelshare.server.registry.tables import StagedFileRow
from modelshare.server.registry.uploads import ahead
from modelshare.server.settings import Settings
from own_storage import objects, set_storage
from served import wait_until
from server.hub.conftest import ON_BOTH_DATABASES
from storage_servers import S3Server, s3_server
from uploading import PART, Files, pushed, sha256, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
QUOTA = 1 << 20
NAME = "tiny"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    own = {"storage_allow_private": True, "uploads_part_size": PART, "projects_quota_bytes": QUOTA}
    return settings.model_copy(update=own)


async def batch(owner: Tenant, files: Files, name: str = NAME) -> dict[str, dict[str, Any]]:
    """Where the client sends each of the files that the project's storage lacks, by SHA-256."""
    objects = [{"oid": sha256(data), "size": len(data)} for data in files.values()]
    wish = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": objects}
    answer = await owner.http.post(f"/hf/acme/{name}.git/info/lfs/objects/batch", json=wish)
    assert answer.status_code == 200, answer.text
    return {each["oid"]: each["actions"]["upload"] for each in answer.json()["objects"] if "actions" in each}


async def send(owner: Tenant, upload: dict[str, Any], data: bytes) -> None:
    """As Git LFS has it: in one piece, or in parts."""
    header = dict(upload.get("header", {}))
    size = int(header.pop("chunk_size", len(data)))
    async with httpx.AsyncClient() as anybody:
        for number, url in enumerate(header.values() or [upload["href"]]):
            http = owner.http if url.startswith(str(owner.http.base_url)) else anybody
            answer = await http.put(url, content=data[number * size : (number + 1) * size])
            assert answer.status_code == 200, answer.text


async def commit(owner: Tenant, files: Files, name: str = NAME) -> httpx.Response:
    """Small files within the commit, and the others as LFS objects."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "x"}}]
    for path, data in files.items():
        if is_large(len(data)):
            line: dict[str, Any] = {"path": path, "algo": "sha256", "oid": sha256(data), "size": len(data)}
            lines.append({"key": "lfsFile", "value": line})
        else:
            line = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
            lines.append({"key": "file", "value": line})
    return await owner.http.post(
        f"/hf/api/models/acme/{name}/commit/main", content="\n".join(map(json.dumps, lines)), timeout=60
    )


async def push(owner: Tenant, files: Files, name: str = NAME) -> None:
    large = {path: data for path, data in files.items() if is_large(len(data))}
    by_oid = {sha256(data): data for data in large.values()}
    for oid, upload in (await batch(owner, large, name)).items():
        await send(owner, upload, by_oid[oid])
    answer = await commit(owner, files, name)
    assert answer.status_code == 200, answer.text


async def pulled(owner: Tenant, files: Files, *, origin: str, revision: str = "main") -> None:
    """Both forms give these files, from `origin` where they are large."""
    tag = revision.replace("main", "latest")
    manifest = (await owner.http.get(f"/v2/acme/{NAME}/manifests/{tag}")).json()
    named = {each["annotations"]["org.opencontainers.image.title"]: each["digest"] for each in manifest["layers"]}
    assert named == {path: f"sha256:{sha256(data)}" for path, data in files.items()}
    for path, data in files.items():
        hf = await owner.http.get(f"/hf/acme/{NAME}/resolve/{revision}/{path}")
        oci = await owner.http.get(f"/v2/acme/{NAME}/blobs/{named[path]}")
        for answer, redirect in ((hf, 302), (oci, 307)):
            if not is_large(len(data)):
                assert (answer.status_code, answer.content) == (200, data)
                continue
            url = answer.headers["location"]
            assert answer.status_code == redirect
            if revision == "main" or redirect == 302:  # a digest may be read from the newest version that has it
                assert url.startswith(origin)
            async with httpx.AsyncClient() as anybody:
                http = owner.http if url.startswith(str(owner.http.base_url)) else anybody
                there = await http.get(url, headers={"Range": "bytes=5-"})
            assert (there.is_success, there.content) == (True, data[5:])
        if is_large(len(data)):
            carries = {"User-Agent": "Python-urllib/3.11"}
            streamed = await owner.http.get(f"/hf/acme/{NAME}/resolve/{revision}/{path}", headers=carries)
            assert (streamed.status_code, streamed.content) == (200, data)


@pytest.mark.parametrize("relayed", [False, True])
async def test_pushed_to_the_bucket_and_pulled_from_it(
    app: Application, server: S3Server, owner: Tenant, bucket: Path, relayed: bool
) -> None:
    """More than the platform's quota, which counts only what the platform stores."""
    await set_storage(server, owner, relayed=relayed)
    files = tiny_model(pad=2 * PART)
    await push(owner, files)
    assert objects(bucket) == sorted(map(len, files.values()))
    await pulled(owner, files, origin=f"{owner.http.base_url}/blobs/" if relayed else server.endpoint)
    async with app.database.read() as session:
        assert await blobs.stored_bytes(session, owner.project.id) == 0


async def test_the_platforms_quota_is_for_the_platforms_storage(server: S3Server, owner: Tenant) -> None:
    large = {"model.safetensors": tiny_model(pad=2 * QUOTA)["model.safetensors"]}
    objects = [{"oid": sha256(data), "size": len(data)} for data in large.values()]
    wish = {"operation": "upload", "objects": objects}
    answer = await owner.http.post(f"/hf/acme/{NAME}.git/info/lfs/objects/batch", json=wish)
    assert answer.status_code == 403
    assert "quota" in answer.json()["error"]
    await set_storage(server, owner)
    assert len(await batch(owner, large)) == 1


async def test_a_commit_takes_along_what_is_stored_elsewhere(server: S3Server, owner: Tenant, bucket: Path) -> None:
    """A commit names the files that it changes; the others are copied to where the version goes now."""
    before = tiny_model(pad=QUOTA // 4)
    await push(owner, before)
    await set_storage(server, owner)
    readme = {"README.md": b"# New\n"}
    assert (await commit(owner, readme)).status_code == 200
    after = before | readme
    assert objects(bucket) == sorted(map(len, after.values()))
    await pulled(owner, before, origin=f"{owner.http.base_url}/blobs/", revision="1.0.0")
    await pulled(owner, after, origin=server.endpoint, revision="1.0.1")
    assert (await owner.http.delete("/v1/storage")).status_code == 204
    again = {"README.md": b"# Newer\n"}
    assert (await commit(owner, again)).status_code == 200
    await pulled(owner, after | again, origin=f"{owner.http.base_url}/blobs/")
    assert objects(bucket) == sorted(map(len, after.values()))


async def test_a_commit_copies_only_so_much(
    server: S3Server, owner: Tenant, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than that is refused, and the model is as it was; once it is moved, the same commit is accepted."""
    await push(owner, tiny_model(pad=QUOTA // 4))
    await set_storage(server, owner)
    monkeypatch.setattr(ahead, "MAX_BROUGHT", QUOTA // 4)
    for _ in range(2):
        refused = await commit(owner, {"README.md": b"# New\n"})
        assert refused.status_code == 409
        assert "Move the model first: `modelshare storage move tiny --to own`" in refused.json()["error"]
    assert objects(bucket) == []
    assert (await owner.http.post("/v1/storage/moves", json={"model": NAME, "to": "own"})).status_code == 202

    async def is_moved() -> bool | None:
        return (await owner.http.get("/v1/storage/moves")).json()["data"][0]["state"] == "done" or None

    await wait_until(is_moved)
    assert (await commit(owner, {"README.md": b"# New\n"})).status_code == 200


@ON_BOTH_DATABASES
async def test_a_file_goes_where_it_was_announced(app: Application, server: S3Server, owner: Tenant) -> None:
    """The bucket is known until what was announced there has expired, even if another one has replaced it."""
    await set_storage(server, owner)
    weights = {"model.safetensors": tiny_model(pad=QUOTA // 4)["model.safetensors"]}
    [upload] = (await batch(owner, weights)).values()
    assert (await owner.http.delete("/v1/storage")).status_code == 204
    await send(owner, upload, weights["model.safetensors"])
    [elsewhere] = (await batch(owner, weights)).values()
    assert elsewhere["href"].startswith(str(owner.http.base_url))
    assert await storages(app) == 1
    async with app.database.write() as session:
        await session.execute(update(StagedFileRow).values(expires_at=0))
    await ahead.end_expired(app.platform)

    async def is_forgotten() -> bool | None:
        return await storages(app) == 0 or None

    await wait_until(is_forgotten)


async def storages(app: Application) -> int:
    async with app.database.read() as session:
        return len(list(await session.scalars(select(StorageRow))))


async def test_an_upload_that_the_bucket_has_forgotten_starts_again(
    app: Application, server: S3Server, owner: Tenant
) -> None:
    await set_storage(server, owner)
    files = tiny_model(pad=QUOTA // 4)
    weights = {"model.safetensors": files["model.safetensors"]}
    await batch(owner, weights)
    async with app.database.read() as session:
        [row] = await session.scalars(select(StagedFileRow))
    await (await app.platform.stores.get(row.storage)).abort(ahead.multipart_of(row))
    await push(owner, files)
    await pulled(owner, files, origin=server.endpoint)


async def test_a_bucket_that_is_away_is_the_owners_and_nobody_else_waits_for_it(
    app: Application, tmp_path: Path, owner: Tenant, deployer: Tenant
) -> None:
    files = tiny_model(pad=QUOTA // 4)
    with s3_server(tmp_path / "away") as server:
        await set_storage(server, owner)
        await push(owner, files)
        xorb = {"length": 5, "checksum": {"algo": "crc64nvme", "value": "0"}}
        generation = app.platform.now() // app.settings.uploads_expire_seconds
        for tenant in (owner, deployer):
            place = f"/hf/xet/{tenant.project.slug}/{NAME}/{generation}/v1"
            granted = await tenant.http.post(f"{place}/xorb-grants/default/{'0' * 64}", json=xorb)
            assert granted.status_code == (201 if tenant is owner else 404)
            if tenant is deployer:
                sent = await tenant.http.post(f"{place}/xorbs/default/{'0' * 64}", content=b"12345")
                assert sent.status_code == 200, sent.text
    small = await owner.http.get(f"/hf/acme/{NAME}/resolve/main/config.json")
    assert small.status_code == 503
    assert small.json()["error"] == "The storage of the model's owner is unavailable. Try again later."
    blob = await owner.http.get(f"/v2/acme/{NAME}/blobs/sha256:{sha256(files['config.json'])}")
    assert (blob.status_code, blob.json()["errors"][0]["message"]) == (503, small.json()["error"])
    async with app.database.write() as session:
        await session.execute(update(XorbRow).values(expires_at=0))
    await xet.end_expired(app.platform)
    async with app.database.read() as session:
        assert list(await session.scalars(select(XorbRow))) == []
    assert (await pushed(deployer.http, files))["status"] == "ready"


async def test_models_with_the_same_content_are_pushed_at_once(
    app: Application, server: S3Server, owner: Tenant, bucket: Path
) -> None:
    """None of them takes what another one has sent and not committed yet."""
    await set_storage(server, owner)
    files = tiny_model(pad=QUOTA // 4)
    weights = {"model.safetensors": files["model.safetensors"]}
    names = [f"same-{number}" for number in range(4)]
    for name in names:
        [upload] = (await batch(owner, weights, name)).values()
        await send(owner, upload, weights["model.safetensors"])
    answers = await asyncio.gather(*(commit(owner, files, name) for name in names))
    assert [answer.status_code for answer in answers] == [200] * len(names), [answer.text for answer in answers]
    async with app.database.read() as session:
        assert list(await session.scalars(select(StagedFileRow))) == []

    async def is_stored_once() -> bool | None:
        return objects(bucket) == sorted(map(len, files.values())) or None

    await wait_until(is_stored_once)
