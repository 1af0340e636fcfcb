"""Thousands of connections of one stranger, in every half-way state: everybody else is served as before."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import new_tenant
from factories import make_model
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.server.app import create_app
from modelshare.server.settings import Settings
from modelshare.wire.link import Request
from programs import SECRET, Server, serving
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]

CONNECTIONS = 5000
FEW_FILES = 1300
"""As many as some operating systems let a process open."""


@dataclass(frozen=True)
class Prepared:
    chat: str
    key: str
    agent_token: str


@pytest.fixture
async def prepared(settings: Settings) -> Prepared:
    """A platform with an endpoint, that no process serves at the moment."""
    async with create_app(Settings(**settings.model_dump(exclude={"secret"}), secret=SECRET)).running() as app:
        owner = await new_tenant(app, "acme")
        async with owner.http as http:
            model = await make_model(app, owner.project.id)
            spec = {"slug": "chat", "model": str(model), "tier": "self_hosted"}
            assert (await http.post("/v1/endpoints", json=spec)).status_code == 201
            _, token = await enroll(http)
    return Prepared(f"/{owner.project.id}/chat/v1/chat/completions", owner.project.api_key, token)


@contextmanager
def flooded(server: Server) -> Iterator[None]:
    """While a stranger on this machine has all these connections open, or tries to."""
    url = urlsplit(server.url)
    words = [sys.executable, str(Path(__file__).with_name("flood_child.py"))]
    words += [str(url.hostname), str(url.port), str(CONNECTIONS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            yield
        finally:
            child.kill()


async def echo(agent: LinkAgent, request: Request, body: bytes) -> None:
    await agent.send(answer(request, body))


@pytest.mark.timeout(900)  # each request has its own limit
@pytest.mark.parametrize("files", [None, FEW_FILES])
async def test_a_chat_and_a_link_go_on(
    tmp_path: Path, database_url: str, prepared: Prepared, files: int | None
) -> None:
    headers = {"Authorization": f"Bearer {prepared.key}"}
    total = str(files * 3 // 4) if files else ""
    with serving(tmp_path / "server", database_url=database_url, secret=SECRET, connections_total=total) as server:
        if files:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (files, files))
        async with (
            linked(server.url, prepared.agent_token, handler=echo) as agent,
            httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20) as http,
        ):
            await agent.make_ready()

            async def answers() -> bool:
                return (await http.post(prepared.chat, json={})).status_code == 200

            await wait_until(answers)
            with flooded(server):
                for _ in range(30):
                    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20) as newcomer:
                        assert (await newcomer.get("/healthz")).status_code == 200
                        assert (await newcomer.get("/readyz")).status_code == 200
                        assert (await newcomer.post(prepared.chat, json={})).status_code == 200
                    assert await answers(), "on the connection that was there before"
            assert agent.closed is None
    assert "rror" not in server.log.read_text()
