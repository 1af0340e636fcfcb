"""Machines that join a project from its pages, and parts of pages that stay up to date."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from link_agent import LinkAgent, linked
from server.web.conftest import Somebody

SESSION_COOKIE = "modelshare_session"
_SECONDS = 60


def join_key_in(answer: httpx.Response) -> str:
    found = re.search(r"MODELSHARE_JOIN_KEY=(msj_[\w-]+) modelshare agent --url", answer.text)
    assert found, answer.text
    return found[1]


async def join(somebody: Somebody, project: str, name: str = "box") -> tuple[str, str]:
    """A machine joins with a key that was made on the page: its id and token."""
    made = await somebody.post(f"/dashboard/{project}/agents/join-keys", name="for the box", expires_in="3600")
    spec = {"join_key": join_key_in(made), "name": name}
    answer = await somebody.http.post("/v1/enroll", json=spec)
    assert answer.status_code == 201, answer.text
    return answer.json()["agent_id"], answer.json()["token"]


@asynccontextmanager
async def machine(somebody: Somebody, project: str, url: str) -> AsyncIterator[LinkAgent]:
    """A machine that joined, linked as long as the block."""
    agent_id, token = await join(somebody, project)
    async with linked(url, token, agent_id=agent_id) as link:
        yield link


class Live:
    """A part of a page as the browser has it."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def until(self, words: str) -> str:
        """The first version of the part from now on that says so."""
        part: list[str] = []
        async with asyncio.timeout(_SECONDS):
            async for line in self._lines:
                if line:
                    part.append(line.removeprefix("data: "))
                    continue
                html, part = "\n".join(part), []
                if words in html:
                    return html
        raise AssertionError(f"the stream ended before it said {words!r}")

    async def ends(self) -> None:
        """The stream does, without more to come."""
        async with asyncio.timeout(_SECONDS):
            async for _ in self._lines:
                pass


@asynccontextmanager
async def live(somebody: Somebody, url: str, path: str) -> AsyncIterator[Live]:
    """The part's events, over a real connection with the somebody's session."""
    cookies = {SESSION_COOKIE: somebody.http.cookies[SESSION_COOKIE]}
    async with httpx.AsyncClient(base_url=url, cookies=cookies) as http, http.stream("GET", path) as answer:
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Live(answer)
