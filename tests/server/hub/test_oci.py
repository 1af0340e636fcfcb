"""`/v2/`, request by request, as the specification of registries and docs/oci.md have it."""

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import delete, select

from conftest import Tenant, client_of
from modelshare.server.app import Application
from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import Database
from modelshare.server.hub.oci import artifact
from modelshare.server.hub.oci.tables import OciArtifactRow
from modelshare.server.registry.tables import ModelRow
from modelshare.server.settings import Settings
from server.hub.conftest import ON_BOTH_DATABASES
from uploading import Files, pushed, tiny_model

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
LARGE = 100_000
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORY = "acme/tiny-1b"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"keys_rotation_grace_seconds": 3600})


@pytest.fixture
def files() -> Files:
    return {**tiny_model(pad=LARGE), "empty.txt": b"", "tokenizer/vocab.txt": b"a\nb\n"}


@pytest.fixture
async def model(owner: Tenant, files: Files) -> dict[str, Any]:
    model = await pushed(owner.http, files, name="Tiny-1B", version="1.0.0+a.1")
    assert model["status"] == "ready"
    return model


def basic(secret: str, name: str = "token") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{secret}'.encode()).decode()}"}


async def token(http: httpx.AsyncClient, secret: str, repository: str = REPOSITORY) -> str:
    scope = {"service": "registry", "scope": f"repository:{repository}:pull"}
    answer = await http.get("/v2/token", params=scope, headers=basic(secret))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def error_of(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert_headers(answer.headers)
    [error] = answer.json()["errors"]
    assert (error["code"], error["detail"]) == (code, None)
    return str(error["message"])


def assert_headers(headers: Mapping[str, str]) -> None:
    """Of every answer."""
    assert headers["Docker-Distribution-API-Version"] == "registry/2.0"
    assert (headers["Cache-Control"], headers["Vary"]) == ("no-store", "Authorization")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def test_nobody_gets_past_the_challenge_without_a_token(anonymous: httpx.AsyncClient, model: Any) -> None:
    realm = 'Bearer realm="http://modelshare.test/v2/token",service="modelshare.test"'
    for path, scope in (
        ("/v2/", ""),
        ("/v2", ""),
        (f"/v2/{REPOSITORY}/manifests/1.0.0_a.1", f',scope="repository:{REPOSITORY}:pull"'),
        ("/v2/no/such/blobs/x", ',scope="repository:no/such:pull"'),
        ("/v2/no/such/tags/list", ',scope="repository:no/such:pull"'),
        (f"/v2/no/such/referrers/sha256:{'0' * 64}", ',scope="repository:no/such:pull"'),
        ("/v2/a%0d%0aX%3a%201/b%22/tags/list", ""),
    ):
        for authorization in ({}, {"Authorization": "Bearer x"}, basic("x")):
            answer = await anonymous.get(path, headers=authorization)
            assert "log in" in error_of(answer, 401, "UNAUTHORIZED")
            assert answer.headers["WWW-Authenticate"] == realm + scope


async def test_a_token_is_for_one_repository(anonymous: httpx.AsyncClient, owner: Tenant, model: Any) -> None:
    key = owner.project.api_key
    scoped = {"Authorization": f"Bearer {await token(anonymous, key)}"}
    nothing = await anonymous.get("/v2/token", headers=basic(key))
    assert (await anonymous.get("/v2/", headers=scoped)).json() == {}
    assert (await anonymous.get(f"/v2/{REPOSITORY}/tags/list", headers=scoped)).status_code == 200
    assert (await anonymous.get("/v2/acme/other/tags/list", headers=scoped)).status_code == 401
    for_nothing = {"Authorization": f"Bearer {nothing.json()['token']}"}
    assert (await anonymous.get("/v2/", headers=for_nothing)).status_code == 200
    assert (await anonymous.get(f"/v2/{REPOSITORY}/tags/list", headers=for_nothing)).status_code == 401


async def test_tokens_are_fetched_in_both_ways(anonymous: httpx.AsyncClient, owner: Tenant, model: Any) -> None:
    key = owner.project.api_key
    form = {"grant_type": "password", "username": "any", "service": "s", "client_id": "containerd-client"}
    form |= {"scope": f"repository:{REPOSITORY}:pull"}
    for answer in (
        await anonymous.get("/v2/token", params=form, headers=basic(key)),
        await anonymous.post("/v2/token", data=form | {"password": key}),
        await anonymous.post("/v2/token", data=form | {"grant_type": "refresh_token", "refresh_token": key}),
    ):
        assert answer.status_code == 200, answer.text
        assert_headers(answer.headers)
        got = answer.json()
        assert got["token"] == got["access_token"]
        assert got["expires_in"] == 12 * 3600
        assert got["issued_at"].endswith("Z")
        bearer = {"Authorization": f"Bearer {got['token']}"}
        assert (await anonymous.head(f"/v2/{REPOSITORY}/manifests/latest", headers=bearer)).status_code == 200
    for answer in (
        await anonymous.get("/v2/token", params=form),
        await anonymous.get("/v2/token", headers=basic("wrong")),
        await anonymous.get("/v2/token", headers={b"Authorization": "Basic \u00a7".encode()}),
        await anonymous.post("/v2/token", data=form | {"password": "wrong"}),
        await anonymous.post("/v2/token", data=form | {"password": "x" * 100_000}),
        await anonymous.post("/v2/token", content=b"\xff=\xfe&&&", headers={"Content-Type": "text/plain"}),
    ):
        assert error_of(answer, 401, "UNAUTHORIZED")
        assert "WWW-Authenticate" not in answer.headers


async def test_a_token_says_when_its_key_ends(anonymous: httpx.AsyncClient, owner: Tenant) -> None:
    short = (await owner.http.post("/v1/keys", json={"name": "short", "expires_in": 500})).json()
    rotated = (await owner.http.post("/v1/keys", json={"name": "rotated"})).json()
    assert (await owner.http.post(f"/v1/keys/{rotated['id']}/rotate")).status_code == 200
    for key, seconds in ((short, 500), (rotated, 3600)):
        left = (await anonymous.get("/v2/token", headers=basic(key["key"]))).json()["expires_in"]
        assert seconds - 100 < left <= seconds


async def test_a_manifest_by_tag_and_by_digest(owner: Tenant, model: Any, files: Files) -> None:
    by_tag = await owner.http.get(f"/v2/{REPOSITORY}/manifests/1.0.0_a.1")
    assert by_tag.status_code == 200
    assert_headers(by_tag.headers)
    assert by_tag.headers["Content-Type"] == MANIFEST
    digest = digest_of(by_tag.content)
    assert by_tag.headers["Docker-Content-Digest"] == digest
    assert by_tag.headers["ETag"] == f'"{digest}"'
    for reference in ("latest", "main", digest):
        for repository in (REPOSITORY, "ACME/Tiny-1B"):
            same = await owner.http.get(f"/v2/{repository}/manifests/{reference}", headers={"Accept": "text/html"})
            assert same.content == by_tag.content
            head = await owner.http.head(f"/v2/{repository}/manifests/{reference}")
            assert (head.status_code, head.content) == (200, b"")
            assert dict(head.headers) | {"x-request-id": ""} == dict(same.headers) | {"x-request-id": ""}
    layers = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in by_tag.json()["layers"]}
    assert {path: (layer["digest"], layer["size"]) for path, layer in layers.items()} == {
        path: (digest_of(data), len(data)) for path, data in files.items() if data
    }
    for reference in ("2.0.0", "1.0.0", "1.0.0+a.1+b", f"sha256:{'0' * 64}", "sha256:x"):
        answer = await owner.http.get(f"/v2/{REPOSITORY}/manifests/{reference}")
        assert "Tags: 1.0.0_a.1, latest." in error_of(answer, 404, "MANIFEST_UNKNOWN")


@ON_BOTH_DATABASES
async def test_blobs(owner: Tenant, model: Any, files: Files) -> None:
    manifest = (await owner.http.get(f"/v2/{REPOSITORY}/manifests/latest")).json()
    config = (await owner.http.get(f"/v2/{REPOSITORY}/blobs/{manifest['config']['digest']}")).content
    assert (digest_of(config), len(config)) == (manifest["config"]["digest"], manifest["config"]["size"])
    assert json.loads(config)["config"]["format"] == "safetensors"
    for data in (config, *filter(None, files.values())):
        url = f"/v2/{REPOSITORY}/blobs/{digest_of(data)}"
        head = await owner.http.head(url)
        assert (head.status_code, int(head.headers["Content-Length"])) == (200, len(data))
        assert head.headers["Docker-Content-Digest"] == digest_of(data)
        got = await owner.http.get(url)
        assert got.status_code == (307 if len(data) > LARGE else 200)
        assert_headers(got.headers)
        if got.status_code == 307:
            stored = await owner.http.get(got.headers["Location"], headers={"Authorization": "", "Range": "bytes=9-"})
            assert (stored.status_code, stored.content) == (206, data[9:])
        else:
            assert got.content == data
            part = await owner.http.get(url, headers={"Range": "bytes=1-2"})
            assert (part.status_code, part.content) == (206, data[1:3])
            assert part.headers["Content-Range"] == f"bytes 1-2/{len(data)}"
            assert (await owner.http.get(url, headers={"Range": f"bytes={len(data)}-"})).status_code == 416


async def test_a_digest_alone_grants_nothing(owner: Tenant, deployer: Tenant, model: Any, files: Files) -> None:
    """Nor does it through another repository of the same project that does not name it."""
    await pushed(owner.http, tiny_model(seed=2), name="other")
    await pushed(deployer.http, tiny_model(seed=3), name="tiny")
    weights = digest_of(files["model.safetensors"])
    for http, repository in ((owner.http, "acme/other"), (deployer.http, "borg/tiny")):
        assert error_of(await http.get(f"/v2/{repository}/blobs/{weights}"), 404, "BLOB_UNKNOWN")
    for digest in (digest_of(b""), f"sha256:{'0' * 64}", "sha256:x", "x", f"sha512:{'0' * 128}"):
        assert error_of(await owner.http.get(f"/v2/{REPOSITORY}/blobs/{digest}"), 404, "BLOB_UNKNOWN")


async def test_what_is_absent_and_what_is_foreign_look_alike(
    app: Application, owner: Tenant, deployer: Tenant, operator: httpx.AsyncClient, model: Any, files: Files
) -> None:
    assert (await owner.http.post(f"/v1/models/{model['id']}/share")).status_code == 200
    narrow = await owner.http.post("/v1/keys", json={"name": "narrow", "scopes": ["endpoints"]})
    weights = digest_of(files["model.safetensors"])
    async with client_of(app, narrow.json()["key"]) as without_scope:
        for http in (deployer.http, operator, without_scope):
            said = {
                error_of(await http.get(f"/v2/{repository}/{path}"), 404, "NAME_UNKNOWN")
                for repository in (REPOSITORY, "acme/none", "none/none")
                for path in ("manifests/latest", f"blobs/{weights}", "tags/list", f"referrers/{weights}")
            }
            assert len(said) == 1


async def test_tags_are_listed_in_pages(owner: Tenant, model: Any) -> None:
    for version in ("0.9.0", "1.0.0", "1.1.0-rc.1"):
        await pushed(owner.http, tiny_model(seed=len(version)), name="Tiny-1B", version=version)
    url, seen = f"/v2/{REPOSITORY}/tags/list?n=2", list[str]()
    while url:
        answer = await owner.http.get(url)
        assert answer.json()["name"] == REPOSITORY
        seen += answer.json()["tags"]
        assert len(answer.json()["tags"]) <= 2
        url = answer.links["next"]["url"] if "next" in answer.links else ""
        assert url.startswith("http://modelshare.test/v2/") or not url
    assert seen == ["0.9.0", "1.0.0", "1.0.0_a.1", "1.1.0-rc.1", "latest"]
    assert (await owner.http.get(f"/v2/{REPOSITORY}/tags/list?n=0")).json()["tags"] == []
    assert error_of(await owner.http.get(f"/v2/{REPOSITORY}/tags/list?n=x"), 400, "UNSUPPORTED")
    assert (await owner.http.delete(f"/v1/models/{model['id']}/versions/0.9.0")).status_code == 204
    assert "0.9.0" not in (await owner.http.get(f"/v2/{REPOSITORY}/tags/list")).json()["tags"]
    assert error_of(await owner.http.get(f"/v2/{REPOSITORY}/manifests/0.9.0"), 404, "MANIFEST_UNKNOWN")


async def test_nothing_refers_to_a_manifest(owner: Tenant, model: Any) -> None:
    answer = await owner.http.get(f"/v2/{REPOSITORY}/referrers/sha256:{'0' * 64}")
    assert answer.headers["Content-Type"] == artifact.INDEX_TYPE
    assert answer.json() == {"schemaVersion": 2, "mediaType": artifact.INDEX_TYPE, "manifests": []}


async def test_whoever_pushes_is_told_how(anonymous: httpx.AsyncClient, owner: Tenant) -> None:
    for method, path in (
        ("POST", f"/v2/{REPOSITORY}/blobs/uploads/"),
        ("PUT", f"/v2/{REPOSITORY}/manifests/1.0.0"),
        ("PATCH", f"/v2/{REPOSITORY}/blobs/uploads/1"),
        ("DELETE", f"/v2/{REPOSITORY}/manifests/1.0.0"),
        ("POST", "/v2/"),
    ):
        for http in (anonymous, owner.http):
            answer = await http.request(method, path, content=b"x")
            assert "`modelshare push" in error_of(answer, 405, "UNSUPPORTED")
    assert error_of(await owner.http.get("/v2/_catalog"), 404, "UNSUPPORTED")


async def test_a_revoked_key_ends_its_tokens(anonymous: httpx.AsyncClient, owner: Tenant, model: Any) -> None:
    key = (await owner.http.post("/v1/keys", json={"name": "pull"})).json()
    bearer = {"Authorization": f"Bearer {await token(anonymous, key['key'])}"}
    url = f"/v2/{REPOSITORY}/manifests/latest"
    assert (await anonymous.get(url, headers=bearer)).status_code == 200
    assert (await owner.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
    assert (await anonymous.get(url, headers=bearer)).status_code == 401


async def test_a_key_that_is_for_other_addresses_gets_nothing(anonymous: httpx.AsyncClient, owner: Tenant) -> None:
    key = (await owner.http.post("/v1/keys", json={"name": "far", "allowed_ips": ["203.0.113.0/24"]})).json()["key"]
    assert (await anonymous.get("/v2/token", headers=basic(key))).status_code == 401
    assert (await anonymous.get("/v2/", headers={"Authorization": f"Bearer {key}"})).status_code == 401


async def test_pulls_are_audited(app: Application, owner: Tenant, model: Any, files: Files) -> None:
    for path in ("manifests/latest", f"blobs/{digest_of(files['model.safetensors'])}"):
        await owner.http.head(f"/v2/{REPOSITORY}/{path}")
        await owner.http.get(f"/v2/{REPOSITORY}/{path}")
    async with app.database.read() as session:
        pulls = list(await session.scalars(select(AuditRow).where(AuditRow.action == "weights.pull")))
    assert [pull.details.get("file") for pull in pulls] == [None, "model.safetensors"]
    assert {(pull.details["form"], pull.details["version"], pull.target) for pull in pulls} == {
        ("oci", "1.0.0+a.1", f"model:{model['id']}")
    }
    assert {pull.actor.partition(":")[0] for pull in pulls} == {"key"}


@ON_BOTH_DATABASES
async def test_an_endpoints_token_reads_what_the_endpoint_runs(
    anonymous: httpx.AsyncClient, owner: Tenant, deployer: Tenant, model: Any, files: Files
) -> None:
    assert (await owner.http.post(f"/v1/models/{model['id']}/share")).status_code == 200
    spec = {"slug": "chat", "model": model["id"], "tier": "self_hosted"}
    assert (await deployer.http.post("/v1/endpoints", json=spec)).status_code == 201
    secret = (await deployer.http.post("/v1/endpoints/chat/hf-token")).json()["token"]
    bearer = {"Authorization": f"Bearer {await token(anonymous, secret)}"}
    manifest = await anonymous.get(f"/v2/{REPOSITORY}/manifests/latest", headers=bearer)
    assert manifest.status_code == 200
    tags = await anonymous.get(f"/v2/{REPOSITORY}/tags/list", headers=bearer)
    assert tags.json()["tags"] == ["1.0.0_a.1", "latest"]
    for layer in manifest.json()["layers"]:
        blob = await anonymous.get(f"/v2/{REPOSITORY}/blobs/{layer['digest']}", headers=bearer)
        assert blob.status_code == (307 if layer["size"] > LARGE else 200)
    await pushed(owner.http, tiny_model(seed=9), name="Other")
    for name in ("acme/other", "borg/tiny"):
        other = {"Authorization": f"Bearer {await token(anonymous, secret, name)}"}
        assert error_of(await anonymous.get(f"/v2/{name}/tags/list", headers=other), 404, "NAME_UNKNOWN")
    assert (await deployer.http.patch("/v1/endpoints/chat", json={"is_active": False})).status_code == 200
    url = f"/v2/{REPOSITORY}/manifests/latest"
    assert error_of(await anonymous.get(url, headers=bearer), 404, "NAME_UNKNOWN")
    assert (await deployer.http.delete("/v1/endpoints/chat")).status_code == 204
    assert (await anonymous.get(url, headers=bearer)).status_code == 401
    assert (await anonymous.get("/v2/token", headers=basic(secret))).status_code == 401


@ON_BOTH_DATABASES
async def test_an_endpoint_that_runs_one_of_several_models_gets_that(
    anonymous: httpx.AsyncClient, owner: Tenant
) -> None:
    one, two = tiny_model(seed=1), tiny_model(seed=2)
    files = {f"{folder}/{path}": data for folder, of in (("a", one), ("b", two)) for path, data in of.items()}
    model = await pushed(owner.http, files, name="two", file="a/model.safetensors")
    assert model["status"] == "ready", model
    spec = {"slug": "b", "model": model["id"], "tier": "self_hosted", "file": "b/model.safetensors"}
    created = await owner.http.post("/v1/endpoints", json=spec)
    assert created.status_code == 201, created.text
    secret = (await owner.http.post("/v1/endpoints/b/hf-token")).json()["token"]
    bearer = {"Authorization": f"Bearer {await token(anonymous, secret, 'acme/two')}"}
    part = await anonymous.get("/v2/acme/two/manifests/latest", headers=bearer)
    titles = {layer["annotations"]["org.opencontainers.image.title"] for layer in part.json()["layers"]}
    assert "b/model.safetensors" in titles
    assert "a/model.safetensors" not in titles
    url = f"/v2/acme/two/manifests/{part.headers['Docker-Content-Digest']}"
    assert (await anonymous.get(url, headers=bearer)).content == part.content
    own = await owner.http.get("/v2/acme/two/manifests/latest")
    assert {layer["annotations"]["org.opencontainers.image.title"] for layer in own.json()["layers"]} == set(files)
    foreign = digest_of(one["model.safetensors"])
    assert error_of(await anonymous.get(f"/v2/acme/two/blobs/{foreign}", headers=bearer), 404, "BLOB_UNKNOWN")


async def kept(database: Database) -> dict[str, bytes | None]:
    async with database.read() as session:
        return {row.file: row.manifest for row in await session.scalars(select(OciArtifactRow))}


@ON_BOTH_DATABASES
async def test_a_manifest_is_rendered_once(
    app: Application, owner: Tenant, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the version is ready; for one that was ready before, when it is asked for first. What is kept stays."""
    assert set(await kept(app.database)) == {""}
    first = (await owner.http.get(f"/v2/{REPOSITORY}/manifests/latest")).content
    monkeypatch.setattr(artifact, "CONFIG_TYPE", "application/another")
    edited = await owner.http.patch(f"/v1/models/{model['id']}", json={"name": "Renamed", "license": "mit"})
    assert edited.status_code == 200
    assert (await owner.http.get("/v2/acme/renamed/manifests/latest")).content == first
    async with app.database.write() as session:
        await session.execute(delete(OciArtifactRow))
    at_once = await asyncio.gather(*(owner.http.get("/v2/acme/renamed/manifests/latest") for _ in range(4)))
    assert {answer.status_code for answer in at_once} == {200}
    assert len({answer.content for answer in at_once}) == 1
    assert at_once[0].content != first
    assert await kept(app.database) == {"": at_once[0].content}


async def test_a_version_that_clients_cannot_read_says_so(
    owner: Tenant, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "MAX_MANIFEST", 100)
    await pushed(owner.http, files, name="large")
    answer = await owner.http.get("/v2/acme/large/manifests/latest")
    assert "This version has no OCI form: it has 5 files" in error_of(answer, 404, "MANIFEST_UNKNOWN")
    blob = await owner.http.get(f"/v2/acme/large/blobs/{digest_of(files['model.safetensors'])}")
    assert error_of(blob, 404, "BLOB_UNKNOWN")


@ON_BOTH_DATABASES
async def test_a_model_without_an_oci_name_says_so(app: Application, owner: Tenant, deployer: Tenant) -> None:
    model = await pushed(owner.http, tiny_model(), name="a._b")
    said = error_of(await owner.http.get("/v2/acme/a._b/tags/list"), 404, "NAME_UNKNOWN")
    assert said.startswith("The model `a._b` has no OCI name:")
    assert "a._b" not in error_of(await deployer.http.get("/v2/acme/a._b/tags/list"), 404, "NAME_UNKNOWN")
    twin = await pushed(owner.http, tiny_model(seed=1), name="lower")
    async with app.database.write() as session:  # as from before such names were refused
        for id_, name, key in ((model["id"], "Twin", "twin"), (twin["id"], "twin", None)):
            row = await session.get(ModelRow, uuid.UUID(id_))
            assert row is not None
            row.name, row.name_key = name, key
    for repository in ("acme/Twin", "acme/twin"):
        manifest = (await owner.http.get(f"/v2/{repository}/manifests/latest")).json()
        assert digest_of(tiny_model(seed=1)["model.safetensors"]) in {each["digest"] for each in manifest["layers"]}


async def test_a_link_is_followed_without_the_token(owner: Tenant, model: Any, files: Files) -> None:
    """It carries a signature of its own, and names the platform as the client does."""
    answer = await owner.http.get(f"/v2/{REPOSITORY}/blobs/{digest_of(files['model.safetensors'])}")
    assert urlsplit(answer.headers["Location"]).netloc == "modelshare.test"
    assert "signature=" in answer.headers["Location"]
    assert owner.project.api_key not in answer.headers["Location"]
