"""Buckets of projects' own, on one S3 server for all tests of a process: each project has a prefix of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Tenant
from storage_servers import S3Server, s3_server


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its buckets."""
    return tmp_path_factory.mktemp("own") / "buckets"


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[S3Server]:
    with s3_server(folder) as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, folder: Path, owner: Tenant) -> Path:
    """Where the owner's objects are."""
    return folder / server.bucket / owner.project.id
