"""The playground: what its page gives the script, and that the session is good for the endpoint's own address."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import update

from conftest import Tenant
from factories import make_model
from link_agent import answer_events
from modelshare.server.app import Application
from modelshare.server.registry.tables import VersionRow
from page_texts import lines
from served import serving, wait_until
from server.web.conftest import ON_BOTH_DATABASES, Somebody
from server.web.machines import live, machine

pytestmark = pytest.mark.anyio
PAGE = "/dashboard/labs/playground"


@pytest.fixture
async def url(running_app: Application) -> AsyncIterator[str]:
    async with serving(running_app) as served:
        yield served


@pytest.fixture
async def chat(app: Application, owner: Tenant, colleague: Somebody, project: str) -> str:
    """Slug of an endpoint of `labs`."""
    model = await make_model(app, owner.project.id)
    assert (await owner.http.post(f"/v1/models/{model}/share")).status_code == 200
    spec = {"model": "acme/tiny", "tier": "self_hosted", "slug": "chat"}
    assert (await colleague.post("/dashboard/labs/endpoints/new", **spec)).status_code == 303
    return "chat"


async def test_without_an_endpoint_it_says_what_to_do(colleague: Somebody, project: str) -> None:
    assert "No endpoints yet" in lines(await colleague.get(PAGE))
    assert (await colleague.get(f"{PAGE}?endpoint=nothing")).status_code == 404


@ON_BOTH_DATABASES
async def test_the_page_names_the_endpoint_for_the_script(colleague: Somebody, chat: str) -> None:
    for path in (PAGE, f"{PAGE}?endpoint=chat"):
        answer = await colleague.get(path)
        found = re.search(r'data-url="(/proj_[0-9a-f]{12}/chat/v1)"', answer.text)
        assert found, answer.text
        assert f'data-base="http://modelshare.test{found[1]}"' in answer.text
        assert 'data-model="acme/tiny" data-kind="chat"' in answer.text
        assert "It can answer once it is active." in lines(answer)


async def test_without_scripts_it_says_so_and_shows_curl(colleague: Somebody, chat: str) -> None:
    page = (await colleague.get(PAGE)).text
    [plain] = re.findall(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert "needs JavaScript" in plain
    assert "/chat/v1/chat/completions" in plain
    assert re.search(r'<div id="playground" hidden', page)


async def test_an_embeddings_endpoint_takes_text(app: Application, colleague: Somebody, chat: str) -> None:
    async with app.database.write() as session:
        await session.execute(update(VersionRow).values(task="embedding"))
    answer = await colleague.get(PAGE)
    assert 'data-kind="embedding"' in answer.text
    assert "/chat/v1/embeddings" in answer.text
    assert 'id="system"' not in answer.text


async def test_the_session_is_good_for_a_streamed_answer_of_the_endpoint(
    url: str, colleague: Somebody, chat: str
) -> None:
    path = re.findall(r'data-url="([^"]+)"', (await colleague.get(PAGE)).text)[0]
    async with machine(colleague, "labs", url) as agent:
        await agent.make_ready()
        async with live(colleague, url, "/dashboard/labs/endpoints/chat/events") as part:
            await part.until("It is ready.")
        body = {"model": "acme/tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}

        async def ask() -> str:
            answer = await colleague.http.post(f"{path}/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            return answer.text

        async def answer() -> None:
            request, sent = await agent.request()
            assert json.loads(sent) == body
            await answer_events(agent, request, [b'{"choices": [{"delta": {"content": "Yo"}}]}', b"[DONE]"])

        _, text = await asyncio.gather(answer(), ask())
        assert '"Yo"' in text
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert (await colleague.http.post(f"{path}/chat/completions", json=body, headers=headers)).status_code == 403

    async def counted() -> bool:
        return "Ben person 1 0 3 8" in lines(await colleague.get("/dashboard/labs/usage"))

    await wait_until(counted)


async def test_nothing_for_others(stranger: Somebody, browser: httpx.AsyncClient, chat: str) -> None:
    assert (await stranger.get(PAGE)).status_code == 404
    assert (await browser.get(PAGE)).headers["location"].startswith("/sign-in?next=")
