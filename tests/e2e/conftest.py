"""A server whose uploads have small parts, and a project of its own for each test that pushes to it."""

import hashlib
from collections.abc import Iterator

import pytest

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
