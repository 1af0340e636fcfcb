"""Buckets of projects' own, on one S3 server for all tests of a process: each project has a prefix of its own. And an
empty place to restore into."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Tenant
from modelshare.server.settings import Settings
from postgres import run_sql
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


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Of another server: an empty folder and, with PostgreSQL, an empty database."""
    if settings.database.startswith("sqlite"):
        yield Settings(data_dir=tmp_path / "restored")
        return
    server: str = request.getfixturevalue("postgres")
    name = f"restored_{secrets.token_hex(4)}"
    run_sql(f"{server}/postgres", f"CREATE DATABASE {name}")
    yield Settings(data_dir=tmp_path / "restored", database_url=f"{server}/{name}")
    run_sql(f"{server}/postgres", f"DROP DATABASE {name} WITH (FORCE)")
