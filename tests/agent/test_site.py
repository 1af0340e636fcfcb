"""Agents of one network that pull one model: its bytes leave the owner's storage about once."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.direct import Box, Site
from agent.support import MIB, Storage, some_bytes, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(storage: Storage) -> Site:
    storage.files = {"a.bin": some_bytes(9 * MIB + 7, 1), "b/c.bin": some_bytes(MIB, 2), "empty": b""}
    return Site(storage)


def sent(storage: Storage) -> float:
    """By the owner's storage, as a multiple of the model's bytes."""
    return storage.sent.total() / sum(map(len, storage.files.values()))


def complete(site: Site, box: Box) -> bool:
    return all(
        box.cache.blob(file.sha256).read_bytes() == site.storage.files[file.path] for file in site.storage.manifest()
    )


async def test_twenty_agents_at_once_cost_the_owner_one_copy(site: Site, storage: Storage, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        boxes = [await stack.enter_async_context(site.box(tmp_path)) for _ in range(20)]
        await asyncio.gather(*(site.pull(box) for box in reversed(boxes)))
        assert all(complete(site, box) for box in boxes)
    assert sent(storage) <= 1.2


async def test_a_late_agent_costs_the_owner_nothing(site: Site, storage: Storage, tmp_path: Path) -> None:
    async with site.box(tmp_path) as first, site.box(tmp_path) as late:
        await site.pull(first)
        before = storage.sent.total()
        await site.pull(late)
        assert complete(site, late)
        assert storage.sent.total() == before


async def test_when_the_one_that_fetches_dies_another_takes_its_place(
    site: Site, storage: Storage, tmp_path: Path
) -> None:
    storage.stall_from = 4 * MIB
    async with AsyncExitStack() as stack:
        boxes = [await stack.enter_async_context(site.box(tmp_path)) for _ in range(5)]
        pulls = [asyncio.create_task(site.pull(box)) for box in boxes]
        await wait_until(lambda: storage.sent["a.bin"] >= 4 * MIB)
        pulls[0].cancel()
        await boxes[0].listener.close()
        boxes[0].is_connected = False
        storage.stall.set()
        await asyncio.gather(*pulls[1:])
        assert all(complete(site, box) for box in boxes[1:])
    assert sent(storage) <= 2.2, "what the first one had, and one more copy"
