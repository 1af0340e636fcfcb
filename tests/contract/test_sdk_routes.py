"""The SDK and the server's OpenAPI document name the same routes, parameters and bodies."""

import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from modelshare.client import CatalogFilter, Client
from modelshare.client.call import Call, Resource, listed, sent
from modelshare.client.uploads import part_path
from modelshare.server.api import api
from modelshare.wire.agents import AgentPatch, Enroll, JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointPatch
from modelshare.wire.held import HeldOpen
from modelshare.wire.importing import ImportCreate
from modelshare.wire.keys import KeyCreate, KeyPatch, ProjectCreate, ProjectPatch, ProjectSettings
from modelshare.wire.models import BomFormat, CatalogRole, ModelPatch, StoredBytes
from modelshare.wire.registering import ModelRegister
from modelshare.wire.sharing import RecallRequest, ShareRequest
from modelshare.wire.signers import SignerAdd
from modelshare.wire.storage import MoveRequest, MoveTarget, StorageSet
from modelshare.wire.uploads import ArchiveEntry, FileEntry, PartPlace, UploadOpen, UploadState, VersionOpen
from modelshare.wire.usage import AuditOutcome
from modelshare.wire.webhooks import DeliveryState, WebhookCreate, WebhookPatch

EXAMPLES: dict[Any, Any] = {
    str: "text", int: 7, bool: True, date: date(2026, 1, 2), UploadState: UploadState.OPEN,
    AuditOutcome: AuditOutcome.REFUSED,
    ModelPatch: ModelPatch(name="x"), EndpointPatch: EndpointPatch(is_active=True), AgentPatch: AgentPatch(name="x"),
    EndpointCreate: EndpointCreate(slug="x", model="m", tier="free"), KeyCreate: KeyCreate(name="x"),
    KeyPatch: KeyPatch(requests_per_minute=1),
    JoinKeyCreate: JoinKeyCreate(name="x"), Enroll: Enroll(join_key="x", name="x"),
    ProjectCreate: ProjectCreate(name="x", slug="x"), ProjectPatch: ProjectPatch(quota_bytes=1),
    WebhookCreate: WebhookCreate(url="x"), WebhookPatch: WebhookPatch(url="x"), DeliveryState: DeliveryState.FAILED,
    HeldOpen: HeldOpen(holder="x", name="x", files=[FileEntry(path="x", size=1, sha256="0" * 64)]),
    ImportCreate: ImportCreate(source="hf:acme/tiny"),
    ModelRegister: ModelRegister(source="s3://bucket/model", name="x"),
    StorageSet: StorageSet(url="s3://bucket/prefix", role_arn="arn:aws:iam::123456789012:role/x"),
    MoveRequest: MoveRequest(to=MoveTarget.OWN),
    UploadOpen: UploadOpen(name="x", archive=ArchiveEntry(filename="x.tar", size=1)),
    ProjectSettings: ProjectSettings(require_signature=True), SignerAdd: SignerAdd(name="x", public_key="x"),
    bytes: b"x", Sequence[PartPlace]: [PartPlace(n=7, k=7)],
    StoredBytes: StoredBytes.KEEP, BomFormat: BomFormat.ANNEX_XII,
    ShareRequest: ShareRequest(), RecallRequest: RecallRequest(deadline=None),
    VersionOpen: VersionOpen(archive=ArchiveEntry(filename="x.tar", size=1)),
    CatalogFilter: CatalogFilter(
        q="x", family="x", tag="x", license="x", architecture="x", format="x", role=CatalogRole.SHARED,
        min_parameters=1, max_parameters=2, min_context=1, max_context=2, sort="name",
    ),
}  # fmt: skip
METHODS = {"get", "post", "put", "patch", "delete"}
INFERENCE = "/{project_id}/{endpoint_slug}/"
"""For the official `openai` client."""
NOT_FOR_THE_SDK = {
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),  # for operators' tools
    ("POST", "/v1/agent/deployments/{deployment_id}/grant"),  # the agent's own, with its own credential
    ("GET", "/v1/agent/status"),  # likewise
    ("POST", "/v1/agent/held-changes"),  # likewise
}  # fmt: skip


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    query: frozenset[str]
    body: str | None
    """Name of the body's schema."""

    def fits(self, call: Call[Any]) -> bool:
        pattern = re.sub(r"\{\w+\}", "[^/]+", self.path)
        return call.method == self.method and re.fullmatch(pattern, call.path) is not None


def _query(operation: dict[str, Any]) -> frozenset[str]:
    return frozenset(item["name"] for item in operation.get("parameters", []) if item["in"] == "query")


def _body(operation: dict[str, Any]) -> str | None:
    content = operation.get("requestBody", {}).get("content", {})
    reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
    return Path(reference).name or None


def _example(hint: Any) -> Any:
    """A value of this type; of the first member that is one for a union, of all for a literal's sequence."""
    if hint in EXAMPLES:
        return EXAMPLES[hint]
    if typing.get_origin(hint) is Sequence:
        return typing.get_args(typing.get_args(hint)[0])
    return next(_example(member) for member in typing.get_args(hint) if member is not type(None))


@pytest.fixture(scope="module")
def routes() -> list[Route]:
    document = api().openapi()
    return [
        Route(method.upper(), path, _query(operation), _body(operation))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method in METHODS and not path.startswith(INFERENCE)
    ]


def calls() -> Iterator[tuple[str, Call[Any]]]:
    """Every method of every resource with all its arguments given, and the call that it builds."""
    with Client("http://unused") as client:
        resources = [value for value in vars(client).values() if isinstance(value, Resource)]
        resources += [client.platform.join_keys, client.platform.agents]
    for resource in resources:
        for name, method in vars(type(resource)).items():
            if isinstance(method, sent | listed):
                build = method._build
                hints = typing.get_type_hints(build)
                given = {word: _example(hints[word]) for word in list(inspect.signature(build).parameters)[1:]}
                yield f"{type(resource).__name__}.{name}", build(resource, **given)


@pytest.mark.parametrize("call", [pytest.param(call, id=f"{name} {call.path}") for name, call in calls()])
def test_every_call_has_its_route(call: Call[Any], routes: list[Route]) -> None:
    route = min((route for route in routes if route.fits(call)), key=lambda route: route.path.count("{"))
    assert set(call.params()) <= route.query
    assert (type(call.body).__name__ if isinstance(call.body, BaseModel) else None) == route.body


def test_every_route_has_its_call(routes: list[Route]) -> None:
    built = [call for _, call in calls()]
    part = Call("PUT", part_path("u", 0, 1), bytes)
    unreached = {(route.method, route.path) for route in routes if not any(map(route.fits, [*built, part]))}
    assert unreached == NOT_FOR_THE_SDK
