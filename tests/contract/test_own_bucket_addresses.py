"""The clients of projects' buckets connect only to public addresses: to the very one that was checked."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelshare.server.storage.bucket import S3Options, bucket_errors, open_client
from modelshare.server.storage.own_bucket import Keys, OwnBucket
from modelshare.server.storage.relayed import RelayedStore
from modelshare.server.storage_errors import OwnStorageError
from storage_servers import S3Server, s3_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The host names that were resolved; the first answer for `rebound.test` is public, the next ones are loopback."""
    names: list[str] = []
    resolve = socket.getaddrinfo

    def resolving(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        names.append(str(host))
        if host == "rebound.test":
            return resolve("93.184.216.34" if names.count("rebound.test") == 1 else "127.0.0.1", port, *args, **options)
        return resolve("127.0.0.1" if host == "private.test" else host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    return names


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a connection was opened to; none is really opened to a public one."""
    addresses: list[str] = []
    connect = socket.socket.connect

    def connecting(this: socket.socket, address: Any) -> None:
        addresses.append(str(address[0]))
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError
        connect(this, address)

    monkeypatch.setattr(socket.socket, "connect", connecting)
    return addresses


def own_bucket(server: S3Server, *, allow_private: bool) -> OwnBucket:
    return OwnBucket("s3://models/x", Keys(server.access_key, server.secret_key), allow_private)


def options(server: S3Server, host: str) -> S3Options:
    return S3Options(server.bucket, "x", f"http://{host}:{server.endpoint.rpartition(':')[2]}", None, "path")


def listed(server: S3Server, host: str, *, allow_private: bool) -> None:
    own = own_bucket(server, allow_private=allow_private)
    client = open_client(options(server, host), own)
    with bucket_errors(own):
        client.list_objects_v2(Bucket=server.bucket, MaxKeys=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "private.test", "localhost"])
def test_a_private_address_is_not_connected_to(
    server: S3Server, host: str, asked: list[str], connected: list[str]
) -> None:
    with pytest.raises(OwnStorageError, match="is not a public address"):
        listed(server, host, allow_private=False)
    assert connected == []
    listed(server, host, allow_private=True)
    assert connected, "the operator may allow it"


def test_a_name_that_changes_its_address_does_not_get_through(
    server: S3Server, asked: list[str], connected: list[str]
) -> None:
    with pytest.raises(OwnStorageError):
        listed(server, "rebound.test", allow_private=False)
    assert set(connected) <= {"93.184.216.34"}
    assert connected, "to the address that was checked"


def test_plain_requests_are_checked_as_well(server: S3Server, connected: list[str]) -> None:
    http = own_bucket(server, allow_private=False).plain_http()
    with pytest.raises(OSError, match="not a public address"):
        _raise(http, server.endpoint)
    assert connected == []


def _raise(http: Any, url: str) -> None:
    from urllib3.exceptions import NewConnectionError  # noqa: PLC0415

    try:
        http.request("GET", url)
    except NewConnectionError as error:
        raise OSError(str(error)) from error


async def test_relayed_requests_are_checked_as_well(server: S3Server, tmp_path: Path, connected: list[str]) -> None:
    own = own_bucket(server, allow_private=False)
    store = RelayedStore(own, lambda key: key, b"s" * 32, options=options(server, "127.0.0.1"), scratch=tmp_path)
    with pytest.raises(OwnStorageError):
        async with store.stream("GET", "proj_1/a/0", None):
            pass
    await store.close()
    assert connected == []
