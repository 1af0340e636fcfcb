"""A server whose uploads have small parts, and a project of its own for each test that pushes to it; and the platform
that clients of other forms are tried with."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from hub_clients import Hub, hub_server
from modelshare.client import Client
from modelshare.wire.keys import ProjectWithKey
from programs import Server, serving
from uploading import PART


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("platform"), uploads_part_size=str(PART)) as running:
        yield running


@pytest.fixture
def project(server: Server, request: pytest.FixtureRequest) -> ProjectWithKey:
    return server.project(f"p{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}")


@pytest.fixture
def client(server: Server, project: ProjectWithKey) -> Iterator[Client]:
    with server.client(project) as connected:
        yield connected


@pytest.fixture(scope="session")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Hub]]:
    with hub_server(tmp_path_factory.mktemp("hub")) as by_kind:
        yield by_kind


@pytest.fixture
def hub(request: pytest.FixtureRequest, hubs: Mapping[str, Hub], tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """Of the kind that the test's parameter names."""
    return replace(hubs[getattr(request, "param", "platform")], home=tmp_path_factory.mktemp("home"))
