"""The pull against a real storage server: what it brings, and what it survives."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from agent.support import MIB, Storage, pulling, some_bytes, wait_until
from modelshare.agent.errors import PullError
from modelshare.agent.range_request import RangeRequests
from modelshare.transfer.partfile import PIECE
from modelshare.wire.agents import Grant

pytestmark = pytest.mark.anyio

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("range_support", ["206", "200+range", "whole"])
async def test_every_file_arrives_whole_whatever_the_manners(
    storage: Storage, tmp_path: Path, range_support: str
) -> None:
    storage.range_support = range_support
    storage.files = {
        "model.gguf": some_bytes(20 * MIB + 7),
        "a/config.json": b"{}",
        "empty": b"",
        "copy.gguf": some_bytes(20 * MIB + 7),
    }
    seen: list[int] = []
    async with pulling(tmp_path) as (cache, puller):
        await puller.pull(storage.manifest(), storage.grant, seen.append)
        for file in storage.manifest():
            assert cache.blob(file.sha256).read_bytes() == storage.files[file.path]
    assert sum(seen) == 20 * MIB + 7 + 2
    big = [path for path in storage.requests if path.endswith(".gguf")]
    assert len(set(big)) == 1  # two paths with the same bytes: fetched once
    assert len(big) == (1 if range_support == "whole" else 3)
    assert not list((tmp_path / "weights").glob("*.p*"))


@pytest.mark.parametrize("range_support", ["206", "whole"])
async def test_cut_connections_are_taken_up_again(storage: Storage, tmp_path: Path, range_support: str) -> None:
    storage.range_support = range_support
    storage.files = {"model.gguf": some_bytes(PIECE)}  # one piece: one request after another
    storage.cut_after = [3 * MIB, 0, 2 * MIB]
    seen: list[int] = []
    unwritten = 5 * MIB // 4  # at most: what is gathered for a write, and what is on its way
    lost = 0

    async def until_nearly_all_is_written(sent: int) -> None:
        nonlocal lost
        await wait_until(lambda: sum(seen) >= sent - lost - unwritten)
        lost = sent - sum(seen)

    if range_support == "206":
        storage.before_cut = until_nearly_all_is_written
    async with pulling(tmp_path) as (cache, puller):
        await puller.pull(storage.manifest(), storage.grant, seen.append)
        assert cache.has(storage.file("model.gguf"))
    if range_support == "206":
        assert sum(seen) == PIECE
        assert storage.sent["model.gguf"] <= PIECE + 2 * unwritten  # what was written was not fetched again


async def test_a_stalled_connection_is_given_up(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": some_bytes(2 * MIB)}
    storage.stall_from = MIB

    async def second_time_flows(_: str) -> None:
        puller._downloader.open_range = RangeRequests(http, 60)
        if len(storage.requests) > 1:
            storage.stall_from = None

    storage.on_request = second_time_flows
    async with aiohttp.ClientSession() as http, pulling(tmp_path, stall_seconds=0.2) as (cache, puller):
        await puller.pull(storage.manifest(), storage.grant, lambda _: None)
        assert cache.has(storage.file("model.gguf"))
    assert len(storage.requests) == 2


@pytest.mark.parametrize("parallel", [1, 3])
async def test_a_storage_that_cuts_parallel_requests_is_asked_for_less(
    storage: Storage, tmp_path: Path, parallel: int
) -> None:
    storage.files = {"model.gguf": some_bytes(160 * MIB)}
    storage.max_parallel = parallel
    async with pulling(tmp_path) as (cache, puller):
        await puller.pull(storage.manifest(), storage.grant, lambda _: None)
        assert cache.has(storage.file("model.gguf"))
    assert len(storage.requests) <= 3 * 20, "most of the 20 pieces were not cut"


async def test_a_storage_that_goes_away_midway_is_given_up(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": some_bytes(80 * MIB), "other.gguf": some_bytes(80 * MIB, seed=2)}

    async def gone_after_a_while(_: str) -> None:
        if len(storage.requests) > 4:
            storage.max_parallel = 0

    storage.on_request = gone_after_a_while
    async with pulling(tmp_path) as (_, puller):
        with pytest.raises(PullError, match=r"Cannot pull \w+\.gguf from the owner's storage"):
            await puller.pull(storage.manifest(), storage.grant, lambda _: None)
    assert len(storage.requests) < 60


async def test_expired_links_are_renewed_midway(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": some_bytes(40 * MIB), "config.json": b"{}"}
    grants: list[str] = []

    async def grant() -> Grant:
        grants.append(storage.secret)
        return await storage.grant()

    async def expire_once(_: str) -> None:
        if len(storage.requests) == 4:
            storage.secret = "1"

    storage.on_request = expire_once
    async with pulling(tmp_path) as (cache, puller):
        await puller.pull(storage.manifest(), grant, lambda _: None)
        assert cache.has(storage.file("model.gguf"))
    assert grants == ["0", "1"]


async def test_links_that_are_always_refused_fail_with_a_reason(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": b"x"}

    async def stale_grant() -> Grant:
        fresh = await storage.grant()
        return fresh.model_copy(
            update={"files": [file.model_copy(update={"url": f"{storage.url}/no/x"}) for file in fresh.files]}
        )

    async with pulling(tmp_path) as (_, puller):
        with pytest.raises(PullError, match=r"refuses every URL for model\.gguf \(HTTP 403\)"):
            await puller.pull(storage.manifest(), stale_grant, lambda _: None)


async def test_only_the_file_with_a_wrong_digest_is_fetched_again(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"bad.safetensors": some_bytes(9 * MIB), "good.safetensors": some_bytes(9 * MIB, seed=2)}
    storage.corrupt["bad.safetensors"] = 1
    seen: list[int] = []
    async with pulling(tmp_path) as (cache, puller):
        await puller.pull(storage.manifest(), storage.grant, seen.append)
        assert all(cache.has(file) for file in storage.manifest())
    assert storage.sent == {"bad.safetensors": 18 * MIB, "good.safetensors": 9 * MIB}
    assert sum(seen) == 18 * MIB
    assert min(seen) == -9 * MIB


async def test_a_digest_that_stays_wrong_fails_and_names_the_file(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"bad.safetensors": some_bytes(MIB), "good.json": b"{}"}
    storage.corrupt["bad.safetensors"] = 99
    async with pulling(tmp_path) as (cache, puller):
        with pytest.raises(PullError, match=r"bad\.safetensors does not match its digest after 3 downloads"):
            await puller.pull(storage.manifest(), storage.grant, lambda _: None)
        assert not cache.has(storage.file("bad.safetensors"))
    assert storage.requests.count("bad.safetensors") == 3


async def test_a_storage_with_another_size_fails_at_once(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": some_bytes(MIB)}
    manifest = storage.manifest()
    storage.files["model.gguf"] += b"more"
    async with pulling(tmp_path) as (_, puller):
        with pytest.raises(PullError, match="1048580 bytes, but the manifest says 1048576"):
            await puller.pull(manifest, storage.grant, lambda _: None)


async def test_a_storage_that_is_gone_fails_without_showing_the_signed_link(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": b"x"}
    storage.url = "http://127.0.0.1:9"
    storage.secret = "do-not-show"
    async with pulling(tmp_path) as (_, puller):
        with pytest.raises(PullError, match=r"no connection to 127\.0\.0\.1:9") as caught:
            await puller.pull(storage.manifest(), storage.grant, lambda _: None)
    assert "do-not-show" not in str(caught.value)


async def test_two_pulls_of_one_file_fetch_it_once(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": some_bytes(10 * MIB)}
    async with pulling(tmp_path) as (_, puller), asyncio.TaskGroup() as both:
        for _ in range(2):
            both.create_task(puller.pull(storage.manifest(), storage.grant, lambda _: None))
    assert storage.sent["model.gguf"] == 10 * MIB


async def test_a_cancelled_pull_keeps_what_it_has(storage: Storage, tmp_path: Path) -> None:
    storage.files = {"model.gguf": some_bytes(3 * PIECE)}
    storage.stall_from = 2 * PIECE
    async with pulling(tmp_path) as (cache, puller):
        job = asyncio.create_task(puller.pull(storage.manifest(), storage.grant, lambda _: None))
        journal = cache.blob(storage.file("model.gguf").sha256).with_suffix(".pieces")
        await wait_until(lambda: journal.exists() and journal.read_bytes() == b"\1\1")
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        storage.stall.set()
        before = storage.sent["model.gguf"]
        await puller.pull(storage.manifest(), storage.grant, lambda _: None)
    assert storage.sent["model.gguf"] - before == PIECE


async def test_a_killed_agent_resumes_where_it_was(storage: Storage, tmp_path: Path) -> None:
    pieces, stalled = 10, 4
    storage.files = {"model.gguf": some_bytes(pieces * PIECE)}
    storage.stall_from = stalled * PIECE
    file = storage.file("model.gguf")
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(TESTS / "agent" / "pull_child.py"),
        str(tmp_path), f"{storage.url}/0/model.gguf", str(file.size), file.sha256,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )  # fmt: skip
    journal = tmp_path / "weights" / f"{file.sha256}.pieces"
    await wait_until(lambda: journal.exists() and journal.read_bytes().count(1) == stalled)
    child.send_signal(signal.SIGKILL)
    await child.wait()
    storage.stall.set()
    storage.sent.clear()
    seen: list[int] = []
    async with pulling(tmp_path) as (cache, puller):
        await puller.pull([file], storage.grant, seen.append)
        assert cache.blob(file.sha256).read_bytes() == storage.files["model.gguf"]
    assert storage.sent["model.gguf"] == (pieces - stalled) * PIECE
    assert seen[0] == stalled * PIECE
