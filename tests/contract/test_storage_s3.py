"""What only a bucket can show: links that allow one thing, keys that do not fit, servers that misbehave."""

import asyncio
import base64
import hashlib
import http.server
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

import httpx
import pytest

from modelshare.server.storage.base import DirectStore, Multipart, SignedPut
from modelshare.server.storage.bucket import S3Options
from modelshare.server.storage.s3 import S3Store
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import MultipartNotFoundError, StorageUnavailableError
from storage_servers import S3Server, s3_server

pytestmark = pytest.mark.anyio

KEY = "proj_0123456789ab/upload/0"
CONTENT = os.urandom(5 << 20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def keys(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def store(server: S3Server, tmp_path: Path) -> DirectStore:
    return open_bucket(server.url, tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "s3://bucket",
        "s3://bucket/below/it?region=eu-west-1",
        "s3://dotted.bucket?region=eu-central-1",
        "s3://bucket?endpoint=http://127.0.0.1:9000",
        "s3://bucket?endpoint=https://storage.example&region=auto&addressing=virtual",
    ],
)
def test_part_links_are_those_of_the_stock_client(place: str, tmp_path: Path) -> None:
    store = S3Store(S3Options.parse(place), scratch=tmp_path, clock=lambda: 0)
    upload = Multipart(KEY, "an id/+= ü", 100, 60)
    params = {"Bucket": store._bucket, "Key": store._name(KEY), "UploadId": upload.id, "PartNumber": 2}
    signed_headers = {"ContentLength": 40, "ContentMD5": base64.b64encode(bytes(16)).decode()}

    def both() -> tuple[SplitResult, SplitResult]:
        stock = store._client.generate_presigned_url("upload_part", Params=params | signed_headers, ExpiresIn=60)
        return urlsplit(store.part_url(upload, 1, expires_at=60, md5="00" * 16).url), urlsplit(stock)

    for _ in range(100):
        ours, stock = both()
        query, expected = parse_qs(ours.query), parse_qs(stock.query)
        if query["X-Amz-Date"] == expected["X-Amz-Date"]:
            break
    assert (ours[:3], query) == (stock[:3], expected)


async def test_a_part_link_takes_only_its_length(store: DirectStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), len(CONTENT))
    signed = store.part_url(upload, 0, expires_at=soon())
    assert send(signed, CONTENT[:-1]).status_code == 403
    assert await store.list_parts(upload) == []
    assert send(signed, CONTENT).is_success


async def test_a_part_link_takes_only_its_part(store: DirectStore) -> None:
    upload = await store.begin(KEY, 2 * len(CONTENT), len(CONTENT))
    signed = store.part_url(upload, 0, expires_at=soon())
    other = SignedPut(signed.url.replace("partNumber=1", "partNumber=2"), signed.headers)
    assert send(other, CONTENT).status_code == 403


async def test_the_bucket_refuses_a_damaged_part(store: DirectStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), len(CONTENT))
    signed = store.part_url(upload, 0, expires_at=soon(), md5=hashlib.md5(CONTENT).hexdigest())
    damaged = send(signed, b"?" * len(CONTENT))
    assert damaged.status_code == 400
    assert "BadDigest" in damaged.text


async def test_the_server_itself_stores_a_part(store: DirectStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), len(CONTENT))
    part = await store.put_part(upload, 0, CONTENT)
    assert await store.list_parts(upload) == [part]
    assert part.etag.strip('"') == hashlib.md5(CONTENT).hexdigest(), "which says that it need not be sent again"
    await store.abort(upload)
    with pytest.raises(MultipartNotFoundError):
        await store.put_part(upload, 0, CONTENT)


async def test_everything_lies_below_the_prefix(store: DirectStore, server: S3Server, tmp_path: Path) -> None:
    await put(store, tmp_path)
    outside = open_bucket(f"s3://{server.bucket}?endpoint={server.endpoint}", tmp_path)
    assert await outside.digest(f"weights/{KEY}") == await store.digest(KEY)


async def test_wrong_keys_are_the_operators_matter(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageUnavailableError, match="The operator should check its name, keys") as error:
        await open_bucket(server.url, tmp_path).begin(KEY, 1, 1)
    assert server.bucket not in str(error.value)


async def test_no_keys_are_the_operators_matter(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in server.environ:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageUnavailableError, match="has no keys for its bucket"):
        open_bucket(server.url, tmp_path).get_url(KEY, expires_at=soon(), base_url="")


async def test_an_answer_that_breaks_off_is_asked_for_again(
    store: DirectStore, server: S3Server, tmp_path: Path
) -> None:
    await put(store, tmp_path)
    with breaking_off(server.endpoint, times=3) as endpoint:
        weak = open_bucket(server.url.replace(server.endpoint, endpoint), tmp_path)
        assert await weak.digest(KEY) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


async def test_answers_that_always_break_off_are_an_error(store: DirectStore, server: S3Server, tmp_path: Path) -> None:
    await put(store, tmp_path)
    with breaking_off(server.endpoint, times=1000) as endpoint:
        weak = open_bucket(server.url.replace(server.endpoint, endpoint), tmp_path)
        with pytest.raises(StorageUnavailableError, match="closes connections before"):
            await weak.digest(KEY)


async def test_a_server_that_ignores_ranges_is_an_error(tmp_path: Path) -> None:
    class WholeFiles(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(CONTENT)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), WholeFiles)) as endpoint:
        reader = await asyncio.to_thread(open_bucket(f"s3://models?endpoint={endpoint}", tmp_path).reader, KEY)
        with pytest.raises(StorageUnavailableError, match="does not support range requests"):
            await asyncio.to_thread(reader.read_at, 0, 10)


def open_bucket(url: str, folder: Path) -> DirectStore:
    store = open_store(url, data_dir=folder, secret=b"")
    assert store.direct
    return store


def soon() -> int:
    return int(time.time()) + 60


def send(signed: SignedPut, content: bytes) -> httpx.Response:
    headers = {**signed.headers, "Content-Length": str(len(content))}
    return httpx.put(signed.url, headers=headers, content=content)


async def put(store: DirectStore, folder: Path) -> None:
    path = folder / "new"
    path.write_bytes(CONTENT)
    await store.put_file(KEY, path)


@contextmanager
def breaking_off(endpoint: str, times: int) -> Iterator[str]:
    """A TCP proxy that cuts the first answers longer than a MiB in their middle."""
    target = urlsplit(endpoint)
    left = [times]

    class Proxy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with closing(socket.create_connection((target.hostname or "", target.port or 0))) as upstream:
                threading.Thread(target=_pump, args=(self.request, upstream), daemon=True).start()
                passed = 0
                while chunk := upstream.recv(1 << 16):
                    passed += len(chunk)
                    if passed > 1 << 20 and left[0] > 0:
                        left[0] -= 1
                        return
                    self.request.sendall(chunk)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """The other side hung up."""

    with serving(Server(("127.0.0.1", 0), Proxy)) as url:
        yield url


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[str]:
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
    except OSError:
        pass
