"""Registries and credentials: what artifacts can be imported, and where tokens go."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clock import Clock
from conftest import Tenant
from model_sources import Hub, content, serving_hub
from modelshare.server import recovery
from modelshare.server.app import Application
from modelshare.server.registry.imports import source_client
from modelshare.server.registry.imports.source_client import SourceClient, SourceError
from modelshare.server.registry.imports.tables import ImportRow
from modelshare.server.settings import Settings
from modelshare.wire import sources as wire
from served import fronted, wait_until
from server.registry.test_import_sources import for_tree, pass_time
from server.registry.test_imports import digests, imported, manifest_of
from stored_rows import dump
from uploading import Files, error_of, sha256, tiny_model

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("running_app"),
    pytest.mark.parametrize("lend", ["sqlite"], indirect=True),
]
TOKEN = "hf_" + "s3cret" * 8
CONTROL = "findable-source"
"""Is written down wherever the token could be: what finds it would find the token."""
RAW = "application/vnd.cncf.model.weight.v1.raw"


@dataclass
class Registry:
    """One repository, `acme/tiny`, that asks for a token."""

    files: Files
    challenge: str | None = None
    """`WWW-Authenticate`; None: everybody may read."""
    layer: dict[str, Any] = field(default_factory=dict)
    """What layers have besides."""
    manifest: bytes | None = None
    """Instead of the true one."""
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.requests.append(request)
        await self._answer(request)(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        if request.url.path == "/token":
            return JSONResponse({"token": "issued"})
        if self.challenge is not None and request.headers.get("authorization") not in {"Bearer issued", basic("u:p")}:
            return JSONResponse({}, 401, {"WWW-Authenticate": self.challenge})
        if request.url.path.startswith("/v2/acme/tiny/manifests/"):
            return Response(self.manifest or self._manifest(), media_type="application/vnd.oci.image.manifest.v1+json")
        by_digest = {f"sha256:{sha256(data)}": data for data in self.files.values()}
        found = by_digest.get(request.url.path.removeprefix("/v2/acme/tiny/blobs/"))
        return Response(status_code=404) if found is None else content(request, found)

    def _manifest(self) -> bytes:
        return json.dumps({"schemaVersion": 2, "layers": [self._layer(*each) for each in self.files.items()]}).encode()

    def _layer(self, path: str, data: bytes) -> dict[str, Any]:
        named = {"org.opencontainers.image.title": path}
        return {
            "mediaType": RAW,
            "digest": f"sha256:{sha256(data)}",
            "size": len(data),
            "annotations": named,
        } | self.layer


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"import_allow_private": True})


@pytest.fixture
def clock() -> Callable[[], float]:
    return Clock()


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    found = Registry(tiny_model())
    async with fronted(found) as url:
        found.url = url
        yield found


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async with serving_hub(Hub(tiny_model())) as found:
        yield found


async def test_an_artifact_of_another_tool(owner: Tenant, registry: Registry) -> None:
    found = await imported(owner, f"oci:{registry.host}/acme/tiny:x")
    assert (found["state"], found["reason"]) == ("ready", None)
    assert {each["path"]: each["sha256"] for each in (await manifest_of(owner, found))["files"]} == digests(
        registry.files
    )


INDEX = json.dumps({"schemaVersion": 2, "manifests": [{"digest": "sha256:" + "0" * 64}]}).encode()
ESCAPE = json.dumps(
    {
        "layers": [
            {"digest": f"sha256:{'0' * 64}", "size": 1, "annotations": {"org.cncf.model.filepath": path}}
            for path in ("model.safetensors", "../x")
        ]
    }
).encode()
ARTIFACTS: dict[str, tuple[dict[str, Any], bytes | None, str]] = {
    "an index": ({}, INDEX, "is an index of several artifacts. Import one of them by its digest"),
    "a packed layer": ({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}, None, "is packed"),
    "a folder of oras": (
        {"annotations": {"org.opencontainers.image.title": "x", "io.deis.oras.content.unpack": "true"}},
        None,
        "is packed",
    ),
    "a layer without a name": ({"annotations": {}}, None, "has no file name"),
    "a path that leaves": ({}, ESCAPE, "could leave the model's folder"),
    "another size": ({"size": 5}, None, "with 5 bytes but sends more"),
    "an odd digest": ({"digest": "md5:0"}, None, "unexpected answer"),
    "a manifest that is too long": ({}, b" " * (wire.MAX_MANIFEST + 1), "has more than"),
    "no manifest": ({}, b"[]", "unexpected answer"),
    "an empty artifact": ({}, b"{}", "There are no weights"),
}


async def test_artifacts_that_cannot_be_imported(owner: Tenant, registry: Registry) -> None:
    for what, (layer, manifest, reason) in ARTIFACTS.items():
        registry.layer, registry.manifest = layer, manifest
        found = await imported(owner, f"oci:{registry.host}/acme/tiny:x")
        assert found["state"] == "failed", what
        assert reason in found["reason"], (what, found["reason"])

        async def nothing_left() -> bool:
            return not (await owner.http.get("/v1/models")).json()["data"]

        await wait_until(nothing_left)


async def test_a_manifest_that_is_not_the_one_asked_for(owner: Tenant, registry: Registry) -> None:
    found = await imported(owner, f"oci:{registry.host}/acme/tiny@sha256:{'0' * 64}")
    assert "does not match its digest" in found["reason"]


@pytest.mark.parametrize("token", [TOKEN, "u:p"])
async def test_a_token_for_a_registry(owner: Tenant, registry: Registry, token: str) -> None:
    registry.challenge = f'Bearer realm="{registry.url}/token",service="r",scope="repository:acme/tiny:pull"'
    found = await imported(owner, f"oci:{registry.host}/acme/tiny:x", token=token)
    assert (found["state"], found["reason"]) == ("ready", None)
    [asked] = [request for request in registry.requests if request.url.path == "/token"]
    assert asked.headers["authorization"] == basic(token if ":" in token else f"token:{token}")
    assert dict(asked.query_params) == {"service": "r", "scope": "repository:acme/tiny:pull"}


async def test_basic_authentication(owner: Tenant, registry: Registry) -> None:
    registry.challenge = 'Basic realm="r"'
    found = await imported(owner, f"oci:{registry.host}/acme/tiny:x", token="u:p")
    assert (found["state"], found["reason"]) == ("ready", None)
    without = await imported(owner, f"oci:{registry.host}/acme/tiny:x", name="other")
    assert "does not show it without a token" in without["reason"]


async def test_a_token_service_on_another_host_has_to_be_allowed(owner: Tenant, registry: Registry) -> None:
    """Without one, it may issue tokens for everybody, as Docker's does."""
    elsewhere = Registry({})
    async with fronted(elsewhere) as url:
        registry.challenge = f'Bearer realm="{url}/token",service="r"'
        refused = await imported(owner, f"oci:{registry.host}/acme/tiny:x", token=TOKEN)
        assert "Tokens are sent to the source's own host only" in refused["reason"]
        assert elsewhere.requests == []
        found = await imported(owner, f"oci:{registry.host}/acme/tiny:x")
        assert (found["state"], found["reason"]) == ("ready", None)
        assert [request.headers.get("authorization") for request in elsewhere.requests] == [None]
        options = {"token": "u:p", "name": "other"}
        host = url.removeprefix("http://")
        wrong = await imported(owner, f"oci:{registry.host}/acme/tiny:x", token_host=f"x{host}", **options)
        assert f"`--token-host {host}`" in wrong["reason"]
        found = await imported(owner, f"oci:{registry.host}/acme/tiny:x", token_host=host, **options)
        assert (found["state"], found["reason"]) == ("ready", None)
        assert elsewhere.requests[-1].headers["authorization"] == basic("u:p")


async def test_tokens_are_nowhere_to_be_read(
    app: Application,
    owner: Tenant,
    hub: Hub,
    settings: Settings,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy = Response(status_code=503, headers={"Retry-After": "1"})
    hub.answer = lambda request: busy if "/resolve/" in request.url.path else None
    body = {"source": "hf:acme/tiny", "endpoint": hub.url, "token": TOKEN, "name": CONTROL}
    answers = [
        await owner.http.post("/v1/imports", json=body | {"name": [CONTROL]}),
        await owner.http.post("/v1/imports", json=body | {"token": [TOKEN]}),
        await owner.http.post("/v1/imports", json=body | {"token": f"{TOKEN} "}),
        await owner.http.post("/v1/imports", json=body),
    ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 201]
    started = answers[-1].json()

    async def waits() -> bool:
        answers.append(await owner.http.get(f"/v1/imports/{started['id']}"))
        return "answered 503" in (answers[-1].json()["reason"] or "")

    await wait_until(waits)
    answers += [await owner.http.get(path) for path in ("/v1/imports", "/v1/audit", "/v1/uploads")]
    structlog.get_logger().info("control", name=CONTROL)
    async with app.database.engine.connect() as connection:
        before = str(await connection.run_sync(dump))
    for text in (before, "".join(answer.text for answer in answers), "".join(capsys.readouterr())):
        assert CONTROL in text
        assert TOKEN not in text
    assert await recovery.rotate_secrets(settings) == 1
    asked = len(hub.requests)
    hub.answer = lambda _: None
    await pass_time(app, clock, 10)

    async def is_ready() -> bool:
        return bool((await owner.http.get(f"/v1/imports/{started['id']}")).json()["state"] == "ready")

    await wait_until(is_ready)
    assert {request.headers["authorization"] for request in hub.requests[asked:]} == {f"Bearer {TOKEN}"}
    async with app.database.read() as session:
        assert list(await session.scalars(select(ImportRow.token))) == [None]


async def test_private_addresses(app: Application, owner: Tenant, hub: Hub) -> None:
    private = app.settings.model_copy(update={"import_allow_private": False})
    object.__setattr__(app.platform, "settings", private)
    for endpoint in (hub.url, "https://127.0.0.1", "https://169.254.169.254", "https://[::1]", "http://example.org"):
        answer = await owner.http.post("/v1/imports", json={"source": "hf:acme/tiny", "endpoint": endpoint})
        assert "`import_allow_private`" in error_of(answer, 400)
    for source in ("oci:localhost/a/b:c", "oci:10.0.0.1/a/b:c", "oci:[::1]/a/b:c"):
        error_of(await owner.http.post("/v1/imports", json={"source": source}), 400)
    inside = for_tree(lambda _: Response(status_code=307, headers={"Location": "http://127.0.0.1:9/inside"}))
    hub.answer = inside
    operators = private.model_copy(update={"import_hf_endpoint": hub.url})
    object.__setattr__(app.platform, "settings", operators)
    refused = await imported(owner, "hf:acme/tiny")
    assert "redirects to an address that is not allowed" in refused["reason"], "the Hub is trusted, but only itself"
    hub.answer = lambda _: None
    assert (await imported(owner, "hf:acme/tiny"))["state"] == "ready"
    object.__setattr__(app.platform, "settings", private)
    hub.requests.clear()
    name = hub.url.replace("http://127.0.0.1", "https://localhost")
    found = await imported(owner, "hf:acme/tiny", endpoint=name)
    assert "`localhost` is not a public address" in found["reason"]
    assert hub.requests == []


async def test_every_redirect_is_checked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refusal(url: str, **_: object) -> str | None:
        asked.append(url)
        return None if url.startswith(hub.url) else "Not public."

    monkeypatch.setattr(source_client, "url_refusal", refusal)
    inside = "http://169.254.169.254/latest/meta-data"
    hub.answer = lambda _: Response(status_code=307, headers={"Location": inside})
    client = SourceClient(hub.url, allows_private=lambda _: True, authorization=None, now=lambda: 0)
    with pytest.raises(SourceError, match="redirects to an address that is not allowed"):
        await client.read(f"{hub.url}/x", wire.HubRevision, limit=1)
    await client.close()
    assert asked == [f"{hub.url}/x", inside]
