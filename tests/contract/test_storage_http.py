"""Downloads from the folder store over a real HTTP server, with its file sending and without."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import psutil
import pytest

from modelshare.server.storage.files import BlobFiles, Receive, Scope, Send
from modelshare.server.storage.local import FolderStore
from served import fronted

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
KEY = "proj_0123456789ab/upload/0"
CONTENT = os.urandom((3 << 20) + 17)


@pytest.fixture
async def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store", b"secret", clock=lambda: NOW)
    await put(store, KEY, CONTENT, tmp_path)
    return store


@pytest.fixture(params=["file sending", "chunks"])
async def client(request: pytest.FixtureRequest, store: FolderStore) -> AsyncIterator[httpx.AsyncClient]:
    files = BlobFiles(store)

    async def without_extensions(scope: Scope, receive: Receive, send: Send) -> None:
        await files({**scope, "extensions": None}, receive, send)

    async with (
        fronted(files if request.param == "file sending" else without_extensions) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield client


async def test_the_whole_file(store: FolderStore, client: httpx.AsyncClient) -> None:
    answer = await client.get(link(store))
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=5-1000005", range(5, 1_000_006)),
        ("bytes=1048576-", range(1 << 20, len(CONTENT))),
        ("bytes=-100", range(len(CONTENT) - 100, len(CONTENT))),
        ("bytes=0-", range(len(CONTENT))),
        ("bytes=7-99999999999", range(7, len(CONTENT))),
    ],
)
async def test_a_range(store: FolderStore, client: httpx.AsyncClient, header: str, expected: range) -> None:
    answer = await client.get(link(store), headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {expected.start}-{expected.stop - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.content == CONTENT[expected.start : expected.stop]


async def test_a_range_behind_the_end(store: FolderStore, client: httpx.AsyncClient) -> None:
    answer = await client.get(link(store), headers={"Range": f"bytes={len(CONTENT)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert f"which has {len(CONTENT)} bytes" in message(answer, "invalid_request_error")


async def test_if_range_keeps_the_range_only_for_the_same_file(store: FolderStore, client: httpx.AsyncClient) -> None:
    etag = (await client.head(link(store))).headers["etag"]
    same = await client.get(link(store), headers={"Range": "bytes=0-9", "If-Range": etag})
    assert (same.status_code, same.content) == (206, CONTENT[:10])
    other = await client.get(link(store), headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, CONTENT)


async def test_head_tells_the_size(store: FolderStore, client: httpx.AsyncClient) -> None:
    answer = await client.head(link(store))
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.content == b""


async def test_an_empty_file(store: FolderStore, client: httpx.AsyncClient, tmp_path: Path) -> None:
    await put(store, "proj_0/empty", b"", tmp_path)
    answer = await client.get(link(store, "proj_0/empty"), headers={"Range": "bytes=0-"})
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_link_without_signature_is_401(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/blobs/{KEY}")
    assert answer.status_code == 401
    assert message(answer, "authentication_error").startswith("This link is not signed")


async def test_a_link_with_another_expiry_is_403(store: FolderStore, client: httpx.AsyncClient) -> None:
    answer = await client.get(link(store).replace(f"={NOW + 60}", f"={NOW + 61}"))
    assert answer.status_code == 403
    assert message(answer, "permission_error").startswith("This download link was modified")


async def test_a_link_signed_with_another_secret_is_403(client: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await client.get(link(FolderStore(tmp_path / "other", b"other")))
    assert answer.status_code == 403


async def test_an_expired_link_is_403_and_says_so(store: FolderStore, client: httpx.AsyncClient) -> None:
    answer = await client.get(store.get_url(KEY, expires_at=NOW, base_url=""))
    assert answer.status_code == 403
    assert message(answer, "permission_error") == "This download link has expired. Request a new grant."
    assert (await client.get(store.get_url(KEY, expires_at=NOW + 1, base_url=""))).status_code == 200


async def test_a_file_that_was_deleted_is_404(store: FolderStore, client: httpx.AsyncClient) -> None:
    await store.delete(KEY)
    answer = await client.get(link(store))
    assert answer.status_code == 404
    assert message(answer, "not_found_error").startswith("The file is no longer stored")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_link_reads_and_nothing_else(store: FolderStore, client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, link(store), content=b"x")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_a_client_that_leaves_ends_the_reading(
    store: FolderStore, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    await store.put_file("proj_0/large", path)
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        request = f"GET {link(store, 'proj_0/large')} HTTP/1.1\r\nHost: x\r\nRange: bytes=1-\r\n\r\n"
        connection.sendall(request.encode())
        await until(lambda: is_open(store.path("proj_0/large")))
    await until(lambda: not is_open(store.path("proj_0/large")))


def link(store: FolderStore, key: str = KEY) -> str:
    return store.get_url(key, expires_at=NOW + 60, base_url="")


def message(answer: httpx.Response, kind: str) -> str:
    """The error's sentence, having checked the envelope."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["type"] == kind
    return str(error["message"])


async def put(store: FolderStore, key: str, content: bytes, folder: Path) -> None:
    path = folder / "new"
    path.write_bytes(content)
    await store.put_file(key, path)


def is_open(path: Path) -> bool:
    return str(path) in {file.path for file in psutil.Process().open_files()}


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is awaited happens outside of the loop
            await anyio.sleep(0.01)
