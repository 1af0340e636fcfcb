"""What an agent believes of those who say that it is no longer part of the fleet."""

from pathlib import Path

import aiohttp
import pytest

from agent.peer import TOKEN, VERDICT_KEY, Peer
from modelshare.agent.fleet_status import FleetStatus
from modelshare.agent.identity import Identity, load_identity
from modelshare.agent.server_api import ServerApi
from modelshare.wire.verdict import Verdict

pytestmark = pytest.mark.anyio


async def verdict(peer: Peer, folder: Path, key: str = VERDICT_KEY) -> Verdict | None:
    async with aiohttp.ClientSession() as http:
        return await FleetStatus(ServerApi(http, peer.url, TOKEN), Identity("agent_1", TOKEN, key), folder).verdict()


@pytest.mark.parametrize("said", list(Verdict))
async def test_what_its_platform_has_signed_is_believed(peer: Peer, tmp_path: Path, said: Verdict) -> None:
    peer.verdict = said
    assert await verdict(peer, tmp_path) is said


async def test_what_anybody_else_says_is_not(peer: Peer, tmp_path: Path) -> None:
    assert await verdict(peer, tmp_path) is None  # 404: an older server
    peer.verdict = Verdict.REMOVED
    assert await verdict(peer, tmp_path, "00" * 32) is None
    assert await verdict(peer, tmp_path, "") is None
    peer.verdict_key = ""
    assert await verdict(peer, tmp_path, "") is None
    peer.url = "http://127.0.0.1:9"
    assert await verdict(peer, tmp_path) is None


async def test_the_first_key_is_learned_and_no_other(peer: Peer, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        standing = FleetStatus(ServerApi(http, peer.url, TOKEN), Identity("agent_1", TOKEN), tmp_path)
        for key in ("", VERDICT_KEY, "00" * 32):
            standing.store_key(key)
        peer.verdict = Verdict.REMOVED
        assert await standing.verdict() is Verdict.REMOVED
    assert load_identity(tmp_path) == Identity("agent_1", TOKEN, VERDICT_KEY)
