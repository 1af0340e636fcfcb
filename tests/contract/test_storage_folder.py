"""What the folder store promises about parts: damaged, repeated, raced, cut short, without room."""

import asyncio
import contextlib
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelshare.server.storage.base import Multipart
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage_errors import (
    ChecksumMismatchError,
    InvalidKeyError,
    MultipartNotFoundError,
    PartReplacedError,
    SizeMismatchError,
    StorageFullError,
)

pytestmark = pytest.mark.anyio

KEY = "proj_0123456789ab/upload/0"
PART = 3 << 20
CONTENT = os.urandom(2 * PART + 100)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, b"secret")


async def test_parts_in_parallel_and_another_process_takes_over(store: FolderStore, tmp_path: Path) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await asyncio.gather(send(store, upload, 0), send(store, upload, 2))
    restarted = FolderStore(tmp_path, b"secret")
    parts = await restarted.list_parts(upload)
    assert [(part.number, part.etag) for part in parts] == [(0, sha256(part_of(0))), (2, sha256(part_of(2)))]
    await send(restarted, upload, 1)
    await restarted.finish(upload)
    assert store.path(KEY).read_bytes() == CONTENT
    assert staged_files(tmp_path) == []


async def test_a_damaged_part_does_not_count_and_can_be_sent_again(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    with pytest.raises(ChecksumMismatchError, match="Send it again"):
        await store.write_part(upload, 0, chunks(b"?" * PART), sha256(part_of(0)))
    assert await store.list_parts(upload) == []
    await finish_with_all_parts(store, upload)


async def test_a_part_may_come_in_many_tiny_pieces(store: FolderStore) -> None:
    async def crumbs() -> AsyncIterator[bytes]:
        for at in range(0, 60_000, 12):
            yield CONTENT[at : at + 12]

    upload = await store.begin(KEY, 60_000, PART)
    await store.write_part(upload, 0, crumbs(), sha256(CONTENT[:60_000]))
    await store.finish(upload)
    assert store.path(KEY).read_bytes() == CONTENT[:60_000]


async def test_a_part_that_is_there_survives_a_damaged_copy(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 0)
    with pytest.raises(ChecksumMismatchError):
        await store.write_part(upload, 0, chunks(b"?" * PART), sha256(part_of(0)))
    await send(store, upload, 1)
    await send(store, upload, 2)
    await store.finish(upload)
    assert store.path(KEY).read_bytes() == CONTENT


@pytest.mark.parametrize(("sent", "said"), [(PART + 1, "more"), (PART - 1, "fewer")])
async def test_a_part_of_another_size_does_not_count(store: FolderStore, sent: int, said: str) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 1)
    with pytest.raises(SizeMismatchError, match=f"exactly {PART} bytes but had {said}"):
        await store.write_part(upload, 0, chunks(b"?" * sent), None)
    assert [part.number for part in await store.list_parts(upload)] == [1]
    await finish_with_all_parts(store, upload)


async def test_other_bytes_replace_a_part(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await store.write_part(upload, 0, chunks(b"?" * PART), None)
    await finish_with_all_parts(store, upload)


async def test_a_part_half_replaced_does_not_count(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 0)
    with pytest.raises(ChecksumMismatchError):
        await store.write_part(upload, 0, chunks(b"?" * PART), sha256(b"other bytes"))
    assert await store.list_parts(upload) == []
    await finish_with_all_parts(store, upload)


async def test_a_client_that_leaves_midway_costs_only_that_part(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 1)
    arrived = asyncio.Event()
    writing = asyncio.create_task(store.write_part(upload, 0, stalling(part_of(0)[:-1], arrived), None))
    await asyncio.wait_for(arrived.wait(), 60)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert [part.number for part in await store.list_parts(upload)] == [1]
    await finish_with_all_parts(store, upload)


async def test_the_newest_attempt_wins(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    stalled = asyncio.create_task(store.write_part(upload, 0, stalling(b"?" * PART, arrived, go_on), None))
    await asyncio.wait_for(arrived.wait(), 60)
    await send(store, upload, 0)
    go_on.set()
    with pytest.raises(PartReplacedError):
        await stalled
    assert [part.etag for part in await store.list_parts(upload)] == [sha256(part_of(0))]
    await finish_with_all_parts(store, upload)


async def test_a_part_for_an_upload_that_is_over(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    late = asyncio.create_task(store.write_part(upload, 0, stalling(part_of(0), arrived, go_on), None))
    await asyncio.wait_for(arrived.wait(), 60)
    await store.abort(upload)
    go_on.set()
    with pytest.raises(MultipartNotFoundError):
        await late
    with pytest.raises(MultipartNotFoundError):
        await send(store, upload, 0)


async def test_a_mark_cut_short_by_a_crash_counts_for_nothing(store: FolderStore, tmp_path: Path) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 0)
    (tmp_path / "staging" / KEY / upload.id / "parts" / "0").write_text("00ff")
    assert await store.list_parts(upload) == []


async def test_an_id_that_we_did_not_make(store: FolderStore) -> None:
    upload = await store.begin(KEY, 1, PART)
    for bad in ("..", f"../{upload.id}", f"{upload.id}/parts"):
        with pytest.raises(InvalidKeyError):
            await store.abort(Multipart(KEY, bad, 1, PART))


async def test_no_upload_begins_without_room_for_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, b"", keep_free=0)
    with pytest.raises(StorageFullError, match="Nothing was lost"):
        await store.begin(KEY, 1 << 60, 1 << 50)
    reserved = FolderStore(tmp_path, b"", keep_free=1 << 60)
    with pytest.raises(StorageFullError):
        await reserved.require_space(1)
    assert staged_files(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting needs root; the test with a limited file size runs everywhere")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_disk_that_fills_up_loses_nothing(small_disk: Path) -> None:
    store = FolderStore(small_disk, b"", keep_free=0)
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 0)
    hog = small_disk / "hog"
    hog.write_bytes(bytes(2 << 20))
    # The check says there is room for part 1; then somebody else takes it.
    arrived, go_on = asyncio.Event(), asyncio.Event()
    late = asyncio.create_task(store.write_part(upload, 1, stalling(part_of(1), arrived, go_on), None))
    await asyncio.wait_for(arrived.wait(), 60)
    fill(hog)
    go_on.set()
    with pytest.raises(StorageFullError):
        await late
    with pytest.raises(StorageFullError):
        await send(store, upload, 2)
    assert [part.number for part in await store.list_parts(upload)] == [0]
    hog.unlink()
    await finish_with_all_parts(store, upload)


async def test_a_file_that_the_system_lets_grow_no_further_loses_nothing(store: FolderStore) -> None:
    upload = await store.begin(KEY, len(CONTENT), PART)
    await send(store, upload, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PART, hard))
    try:
        with pytest.raises(StorageFullError):
            await send(store, upload, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [part.number for part in await store.list_parts(upload)] == [0]
    await finish_with_all_parts(store, upload)


_TAKE_ONE_GIB = """
import asyncio, hashlib, resource, sys
from pathlib import Path
from modelshare.server.storage.local import FolderStore

async def chunks(size):
    for _ in range(size >> 16):
        yield bytes(1 << 16)

async def main():
    store = FolderStore(Path(sys.argv[1]), b"")
    upload = await store.begin("a/0", 1 << 30, 256 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await asyncio.gather(*(store.write_part(upload, n, chunks(256 << 20), None) for n in range(4)))
    await store.finish(upload)
    await store.digest("a/0")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main())
"""


def test_memory_stays_bounded_while_one_gib_comes_in(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        child = subprocess.run(
            [sys.executable, "-c", _TAKE_ONE_GIB, folder], check=True, capture_output=True, text=True, timeout=150
        )
    assert int(child.stdout) < 64 << 10  # KiB


_OPEN_A_FOLDER = """
import sys
from pathlib import Path
from modelshare.server.storage.stores import open_store
open_store(None, data_dir=Path(sys.argv[1]), secret=b"")
print([name for name in sys.modules if name in {"boto3", "botocore", "obstore"}])
"""


def test_a_folder_needs_no_boto3(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _OPEN_A_FOLDER, str(tmp_path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert child.stdout == "[]\n"


async def finish_with_all_parts(store: FolderStore, upload: Multipart) -> None:
    for number in range(upload.count):
        await send(store, upload, number)
    await store.finish(upload)
    assert store.path(KEY).read_bytes() == CONTENT


async def send(store: FolderStore, upload: Multipart, number: int) -> None:
    content = part_of(number)
    await store.write_part(upload, number, chunks(content), sha256(content))


def staged_files(root: Path) -> list[Path]:
    return list((root / "staging").rglob("data"))


def fill(path: Path) -> None:
    """Grows the file until the disk is full."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def part_of(number: int) -> bytes:
    return CONTENT[number * PART :][:PART]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    for offset in range(0, len(content), 70_000):
        yield content[offset : offset + 70_000]


async def stalling(content: bytes, arrived: asyncio.Event, go_on: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Half of the content, then nothing until `go_on`."""
    half = len(content) // 2
    yield content[:half]
    arrived.set()
    await (go_on or asyncio.Event()).wait()
    yield content[half:]


async def test_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir(mode=0o755)
    (tmp_path / "unpacked").touch(mode=0o644)
    before = os.umask(0)
    try:
        store = FolderStore(tmp_path, b"secret")
        upload = await store.begin(KEY, len(CONTENT), PART)
        await finish_with_all_parts(store, upload)
        await send(store, await store.begin(f"{KEY}1", len(CONTENT), PART), 0)
        await store.put_file(f"{KEY}2", tmp_path / "unpacked")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("blobs", "staging")} == {0o700}
