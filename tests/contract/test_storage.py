"""What every store does, on every store."""

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from modelshare.server.storage.base import BlobStore, Multipart, fit_part_size
from modelshare.server.storage.files import BlobFiles
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import (
    BlobNotFoundError,
    InvalidKeyError,
    MultipartNotFoundError,
    PartsMissingError,
    StorageSettingError,
)
from served import fronted
from storage_servers import S3Server, s3_server

pytestmark = pytest.mark.anyio

PART = 5 << 20
"""The smallest part that S3 takes (but for the last)."""
CONTENT = os.urandom(2 * PART + 1234)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "folder":
        return open_store(None, data_dir=tmp_path, secret=b"secret")
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    return open_store(server.url, data_dir=tmp_path, secret=b"secret")


@pytest.fixture
async def base_url(store: BlobStore) -> AsyncIterator[str]:
    if isinstance(store, FolderStore):
        async with fronted(BlobFiles(store)) as url:
            yield url
    else:
        yield "http://this-server.invalid"


@pytest.fixture
def key() -> str:
    return f"proj_0123456789ab/{secrets.token_hex(8)}/0"


async def test_parts_in_any_order_make_the_file(store: BlobStore, key: str) -> None:
    upload = await store.begin(key, len(CONTENT), PART)
    assert upload.count == 3
    for number in (1, 0, 2):
        await send(store, upload, number)
    await store.finish(upload)
    assert await store.digest(key) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


async def test_the_store_knows_which_parts_are_there(store: BlobStore, key: str) -> None:
    upload = await store.begin(key, len(CONTENT), PART)
    assert await store.list_parts(upload) == []
    await send(store, upload, 0)
    await send(store, upload, 1)
    assert [(part.number, part.size) for part in await store.list_parts(upload)] == [(0, PART), (1, PART)]
    with pytest.raises(PartsMissingError, match=r"1 part\(s\) are missing \(2\)") as missing:
        await store.finish(upload)
    assert missing.value.numbers == (2,)
    with pytest.raises(BlobNotFoundError):
        await asyncio.to_thread(store.reader, key)
    await send(store, upload, 2)
    await store.finish(upload)
    assert await read(store, key) == CONTENT


async def test_a_part_sent_twice_counts_once(store: BlobStore, key: str) -> None:
    upload = await store.begin(key, len(CONTENT), PART)
    for number in (0, 0, 1, 2):
        await send(store, upload, number)
    assert len(await store.list_parts(upload)) == 3
    await store.finish(upload)
    assert await read(store, key) == CONTENT


async def test_finish_twice_is_finish_once(store: BlobStore, key: str) -> None:
    upload = await begun_and_sent(store, key)
    await store.finish(upload)
    await store.finish(upload)
    assert await read(store, key) == CONTENT


async def test_an_aborted_upload_is_gone(store: BlobStore, key: str) -> None:
    upload = await store.begin(key, len(CONTENT), PART)
    await send(store, upload, 0)
    await store.abort(upload)
    await store.abort(upload)
    with pytest.raises(MultipartNotFoundError):
        await store.list_parts(upload)
    with pytest.raises(MultipartNotFoundError):
        await store.finish(upload)


async def test_abort_leaves_a_finished_file(store: BlobStore, key: str) -> None:
    upload = await begun_and_sent(store, key)
    await store.finish(upload)
    await store.abort(upload)
    assert await read(store, key) == CONTENT


async def test_an_empty_file_has_no_parts(store: BlobStore, key: str) -> None:
    upload = await store.begin(key, 0, PART)
    assert upload.count == 0
    await store.finish(upload)
    assert await store.digest(key) == (hashlib.sha256(b"").hexdigest(), 0)


async def test_a_part_that_is_not_of_the_file_is_refused(store: BlobStore, key: str) -> None:
    upload = await store.begin(key, PART, PART)
    for number in (-1, 1):
        with pytest.raises(InvalidKeyError, match="the file has 1 part"):
            await send(store, upload, number)


async def test_reader_reads_ranges(store: BlobStore, key: str, tmp_path: Path) -> None:
    await put(store, key, tmp_path)
    reader = await asyncio.to_thread(store.reader, key)
    assert reader.size == len(CONTENT)
    for offset, length in ((0, 8), (PART - 1, 3), (len(CONTENT) - 5, 100), (len(CONTENT), 1)):
        assert await asyncio.to_thread(reader.read_at, offset, length) == CONTENT[offset : offset + length]


async def test_digest_tells_its_progress(store: BlobStore, key: str, tmp_path: Path) -> None:
    await put(store, key, tmp_path)
    told: list[int] = []
    await store.digest(key, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)


async def test_put_file_takes_the_file_over(store: BlobStore, key: str, tmp_path: Path) -> None:
    path = await put(store, key, tmp_path)
    assert not path.exists()
    assert await read(store, key) == CONTENT


async def test_local_copy_is_the_file(store: BlobStore, key: str, tmp_path: Path) -> None:
    await put(store, key, tmp_path)
    async with store.local_copy(key) as path:
        assert path.read_bytes() == CONTENT
    assert await read(store, key) == CONTENT
    assert not list((tmp_path / "scratch").glob("*"))


async def test_a_signed_link_answers_without_a_key(store: BlobStore, key: str, base_url: str, tmp_path: Path) -> None:
    await put(store, key, tmp_path)
    url = store.get_url(key, expires_at=int(time.time()) + 60, base_url=base_url)
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).content == CONTENT
        tail = await client.get(url, headers={"Range": f"bytes={PART}-"})
        assert tail.headers["content-range"] == f"bytes {PART}-{len(CONTENT) - 1}/{len(CONTENT)}"
        assert tail.content == CONTENT[PART:]
        assert (await client.get(url.partition("?")[0])).is_client_error
        forged = re.sub("(?<=ignature=).", lambda first: "b" if first[0] == "a" else "a", url)
        assert (await client.get(forged)).status_code == 403


async def test_a_link_is_for_one_file(store: BlobStore, key: str, base_url: str, tmp_path: Path) -> None:
    await put(store, key, tmp_path)
    await put(store, f"{key}1", tmp_path)
    url = store.get_url(key, expires_at=int(time.time()) + 60, base_url=base_url)
    async with httpx.AsyncClient() as client:
        assert (await client.get(url.replace(key, f"{key}1"))).status_code == 403


async def test_delete(store: BlobStore, key: str, tmp_path: Path) -> None:
    await put(store, key, tmp_path)
    await store.delete(key)
    await store.delete(key)
    for use in (store.digest(key), asyncio.to_thread(store.reader, key), enter(store, key)):
        with pytest.raises(BlobNotFoundError):
            await use


async def test_delete_prefix_takes_files_and_uploads_below_and_nothing_beside(
    store: BlobStore, key: str, tmp_path: Path
) -> None:
    prefix = key.rpartition("/")[0]
    for name in (f"{prefix}/0", f"{prefix}/1", f"{prefix}x/0"):
        await put(store, name, tmp_path)
    upload = await store.begin(f"{prefix}/2", PART, PART)
    await store.delete_prefix(prefix)
    for name in (f"{prefix}/0", f"{prefix}/1"):
        with pytest.raises(BlobNotFoundError):
            await store.digest(name)
    with pytest.raises(MultipartNotFoundError):
        await store.list_parts(upload)
    assert await read(store, f"{prefix}x/0") == CONTENT
    await store.delete_prefix(prefix)


@pytest.mark.parametrize("bad", ["", "/etc/passwd", "a//b", "a/../b", "..", "a/", ".hidden", "a/.b", "a b", "a\n", "ä"])
async def test_keys_that_we_would_never_make_are_refused(store: BlobStore, bad: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(InvalidKeyError):
        await store.begin(bad, 1, PART)
    with pytest.raises(InvalidKeyError):
        await store.put_file(bad, path)
    with pytest.raises(InvalidKeyError):
        store.get_url(bad, expires_at=0, base_url="http://x")
    with pytest.raises(InvalidKeyError):
        store.reader(bad)
    for use in (store.delete(bad), store.delete_prefix(bad), store.digest(bad), enter(store, bad)):
        with pytest.raises(InvalidKeyError):
            await use


def test_parts_grow_with_the_file() -> None:
    assert fit_part_size(10_000 * PART, PART) == PART
    assert fit_part_size(10_000 * PART + 1, PART) == 2 * PART


@pytest.mark.parametrize(
    "url", ["http://x", "s3://", "s3://b?oops=1", "s3://b?addressing=no", "s3://key:secret@bucket", "gs://bucket"]
)
def test_a_setting_that_names_no_store_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageSettingError, match="s3://BUCKET/PREFIX"):
        open_store(url, data_dir=tmp_path, secret=b"")


async def begun_and_sent(store: BlobStore, key: str) -> Multipart:
    upload = await store.begin(key, len(CONTENT), PART)
    for number in range(upload.count):
        await send(store, upload, number)
    return upload


async def send(store: BlobStore, upload: Multipart, number: int) -> None:
    """As a client does: to the bucket by a presigned URL, or through the server."""
    content = CONTENT[number * PART :][:PART]
    if store.direct:
        md5 = hashlib.md5(content).hexdigest()
        put_ = store.part_url(upload, number, expires_at=int(time.time()) + 60, md5=md5)
        async with httpx.AsyncClient() as client:
            (await client.put(put_.url, headers=dict(put_.headers), content=content)).raise_for_status()
    else:
        await store.write_part(upload, number, in_chunks(content), hashlib.sha256(content).hexdigest())


async def in_chunks(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for offset in range(0, len(content), size):
        yield content[offset : offset + size]


async def put(store: BlobStore, key: str, folder: Path) -> Path:
    path = folder / secrets.token_hex(4)
    path.write_bytes(CONTENT)
    await store.put_file(key, path)
    return path


async def read(store: BlobStore, key: str) -> bytes:
    reader = await asyncio.to_thread(store.reader, key)
    return await asyncio.to_thread(reader.read_at, 0, reader.size)


async def enter(store: BlobStore, key: str) -> None:
    async with store.local_copy(key):
        pass
