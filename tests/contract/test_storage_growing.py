"""A file's digest while it comes in: it is of the bytes that are there in the end, or there is none."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelshare.server.storage.base import Multipart
from modelshare.server.storage.local import FolderStore
from modelshare.server.storage_errors import MultipartNotFoundError, PartReplacedError

pytestmark = pytest.mark.anyio

KEY = "proj_0123456789ab/upload/0"
PART = 4096
COUNT = 4
SIZE = COUNT * PART - 100


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


def content_of(number: int, seed: int) -> bytes:
    return bytes([seed]) * (PART if number < COUNT - 1 else PART - 100)


Sent = tuple[int, int]
"""A part's number, and what it holds."""


@given(order=st.permutations(range(COUNT)), again=st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(1, 5))))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_parts_in_any_order_and_written_anew(tmp_path: Path, order: list[int], again: list[Sent]) -> None:
    store = FolderStore(tmp_path, b"secret")
    upload = await store.begin(KEY, SIZE, PART)
    holds = {}
    for number, seed in [*((number, 0) for number in order), *again]:
        holds[number] = content_of(number, seed)
        await store.write_part(upload, number, chunks(holds[number]), None)
    proof = await store.finish(upload)
    whole = b"".join(holds[number] for number in range(COUNT))
    assert proof is not None
    assert (proof.sha256, proof.size) == (hashlib.sha256(whole).hexdigest(), SIZE)
    assert await store.digest(KEY) == (proof.sha256, SIZE)


async def test_after_a_restart_what_is_missing_completes_it(tmp_path: Path) -> None:
    upload = await FolderStore(tmp_path, b"secret").begin(KEY, SIZE, PART)
    for store, numbers in ((FolderStore(tmp_path, b"secret"), (0, 2)), (FolderStore(tmp_path, b"secret"), (1, 3))):
        for number in numbers:
            await store.write_part(upload, number, chunks(content_of(number, number)), None)
    proof = await store.finish(upload)
    assert proof is None or (proof.sha256, SIZE) == await store.digest(KEY)


async def test_a_process_that_saw_no_part_proves_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, b"secret")
    upload = await store.begin(KEY, SIZE, PART)
    for number in range(COUNT):
        await store.write_part(upload, number, chunks(content_of(number, 0)), None)
    assert await FolderStore(tmp_path, b"secret").finish(upload) is None
    assert await store.finish(upload) is None, "it was put together by another"


async def test_what_is_sealed_stays_as_it_is(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, b"secret")
    upload = await store.begin(KEY, SIZE, PART)
    for number in range(COUNT):
        await store.write_part(upload, number, chunks(content_of(number, 0)), None)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        arrived.set()
        await go_on.wait()
        yield content_of(0, 1)

    sending = asyncio.create_task(store.write_part(upload, 0, slow(), hashlib.sha256(content_of(0, 0)).hexdigest()))
    await arrived.wait()
    await store.seal([upload])
    go_on.set()
    with pytest.raises(PartReplacedError):
        await sending
    with pytest.raises(MultipartNotFoundError):
        await store.write_part(upload, 0, chunks(content_of(0, 1)), None)
    await store.unseal([upload])
    await store.write_part(upload, 1, chunks(content_of(1, 1)), None)
    proof = await store.finish(upload)
    assert proof is not None
    with pytest.raises(MultipartNotFoundError):
        await store.write_part(upload, 0, chunks(content_of(0, 1)), None)
    assert await store.digest(KEY) == (proof.sha256, SIZE)


async def test_it_stays_sealed_until_all_who_sealed_it_let_go(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, b"secret")
    upload = await store.begin(KEY, SIZE, PART)
    await asyncio.gather(store.seal([upload]), store.seal([upload]))
    await store.unseal([upload])
    with pytest.raises(MultipartNotFoundError):
        await store.write_part(upload, 0, chunks(content_of(0, 1)), None)
    await store.unseal([upload])
    await store.write_part(upload, 0, chunks(content_of(0, 1)), None)


async def test_small_files_are_proven_as_well(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, b"secret")
    wanted = [Multipart(f"{KEY}{n}", "", PART, PART) for n in range(5)]
    begun = await store.begin_all(wanted)
    contents = [bytes([n]) * PART for n in range(5)]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    files = [
        (upload, memoryview(content), sha256) for upload, content, sha256 in zip(begun, contents, digests, strict=True)
    ]
    await store.write_files(files)
    await store.write_files(files)
    assert [[part.etag for part in parts] for parts in await store.list_parts_of(begun)] == [[d] for d in digests]
    proofs = await store.finish_all(begun)
    assert [proof and proof.sha256 for proof in proofs] == digests
    assert [store.path(upload.key).read_bytes() for upload in begun] == contents
