"""The public catalog's list: search, filters, pages, and who sees what."""

import gzip
import re
from html import unescape
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, text

from conftest import Tenant, client_of, new_tenant
from factories import make_model
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings
from page_texts import lines, message
from server.web.catalog_pages import CATALOG, cards, links, share
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
IN_PLACE = {"HX-Request": "true"}


@pytest.fixture
async def shelf(app: Application, owner: Tenant) -> dict[str, str]:
    """Three models; name to id."""
    return {
        "llama-8b": await share(app, owner, "llama-8b", parameters=8_000_000_000, tags=("chat", "en")),
        "llama-1b": await share(app, owner, "llama-1b", parameters=1_200_000_000),
        "qwen-4b": await share(app, owner, "qwen-4b", family="qwen", parameters=4_000_000_000, license="mit"),
    }


async def shown(browser: httpx.AsyncClient, query: str = "") -> httpx.Response:
    page = await browser.get(f"{CATALOG}{query}")
    assert page.status_code == 200, page.text
    return page


async def test_an_empty_catalog_says_how_it_fills(browser: httpx.AsyncClient) -> None:
    page = await shown(browser)
    assert "No models yet" in page.text
    assert 'href="/dashboard"' in page.text


@ON_BOTH_DATABASES
async def test_a_card_says_what_one_needs_to_choose(
    app: Application, owner: Tenant, browser: httpx.AsyncClient
) -> None:
    model_id = await share(app, owner, "tiny", parameters=7_200_000_000)
    page = await shown(browser)
    said = lines(page)
    assert "1 model " in said
    for words in ("acme / tiny", "About tiny", "7.2B", "2K", "F32", "apache-2.0", "self-hosted only", "0 deployments"):
        assert words in said, words
    assert f"{CATALOG}/{model_id}" in links(page)


@ON_BOTH_DATABASES
@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", {"llama-8b", "llama-1b", "qwen-4b"}),
        ("?q=llama", {"llama-8b", "llama-1b"}),
        ("?family=qwen", {"qwen-4b"}),
        ("?tag=en", {"llama-8b"}),
        ("?license=mit&family=qwen", {"qwen-4b"}),
        ("?parameters=3B-8B", {"qwen-4b"}),
        ("?parameters=8B-", {"llama-8b"}),
        ("?parameters=1B-3B&q=llama", {"llama-1b"}),
        ("?context=4K-8K", set()),
        ("?role=deployable&format=gguf", {"llama-8b", "llama-1b", "qwen-4b"}),
        ("?role=shared", set()),
    ],
)
@pytest.mark.usefixtures("shelf")
async def test_a_url_is_a_query(browser: httpx.AsyncClient, query: str, wanted: set[str]) -> None:
    assert set(cards(await shown(browser, query))) == wanted


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?sort=odd", "`sort`: Choose 'relevance', 'recent', "),
        ("?role=king", "`role`: Choose 'deployable' or 'shared'."),
        ("?parameters=many", "`parameters`: Use a range such as"),
        ("?after=x", "Invalid link to a page of the list. Go back to its first page."),
        (f"?q={'x' * 201}", "`q`: Use at most 200 characters."),
    ],
)
async def test_a_bad_query_is_a_page_that_says_so(browser: httpx.AsyncClient, query: str, said: str) -> None:
    page = await browser.get(f"{CATALOG}{query}")
    assert page.status_code == 400
    assert message(page).startswith(said.replace("`", ""))


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("shelf")
async def test_facets_toggle_one_value_and_keep_the_rest(browser: httpx.AsyncClient) -> None:
    page = await shown(browser, "?q=llama&sort=name&family=llama")
    assert f"{CATALOG}?q=llama&family=llama&tag=en&sort=name" in links(page)
    assert f"{CATALOG}?q=llama&sort=name" in links(page)
    assert re.search(r'aria-current="true"><bdi>llama</bdi>', page.text)
    assert 'aria-label="Remove the filter llama"' in page.text
    assert '<input type="hidden" name="family" value="llama" form="search">' in page.text


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("shelf")
async def test_families_stand_on_the_first_page_only(browser: httpx.AsyncClient) -> None:
    assert "llama 2 models" in lines(await shown(browser))
    assert 'id="families"' not in (await shown(browser, "?q=llama")).text


@pytest.mark.usefixtures("shelf")
async def test_what_finds_nothing_says_what_to_try(browser: httpx.AsyncClient) -> None:
    page = await shown(browser, "?q=zebra&family=llama")
    assert "Nothing found" in page.text
    assert {f"{CATALOG}?q=zebra", CATALOG} <= set(links(page))


@pytest.mark.usefixtures("shelf")
async def test_scripts_get_the_part_that_changes(browser: httpx.AsyncClient) -> None:
    page = await browser.get(f"{CATALOG}?q=llama&family=&sort=relevance", headers=IN_PLACE)
    assert "<html" not in page.text
    assert '<p id="count" hx-swap-oob="innerHTML">2 models</p>' in page.text
    assert page.headers["hx-push-url"] == f"{CATALOG}?q=llama"
    back = await browser.get(CATALOG, headers={**IN_PLACE, "HX-History-Restore-Request": "true"})
    assert "<html" in back.text


async def test_pages_hold_every_model_once(app: Application, owner: Tenant, browser: httpx.AsyncClient) -> None:
    wanted = {await share(app, owner, f"model-{n}") and f"model-{n}" for n in range(30)}
    first = await shown(browser)
    assert "30 models" in first.text
    url = unescape(re.findall(r'<link rel="next" href="([^"]*)"', first.text)[0])
    second = await browser.get(url)
    more = await browser.get(url, headers=IN_PLACE)
    assert len(cards(first)) == 24
    assert {*cards(first), *cards(second)} == wanted
    assert cards(more) == cards(second)
    assert "<html" not in more.text
    assert "hx-push-url" not in more.headers
    assert 'rel="next"' not in second.text
    assert CATALOG in links(second)


async def test_featured_models_come_first_on_the_first_page(
    app: Application, owner: Tenant, operator: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    model_id = await share(app, owner, "pearl")
    await share(app, owner, "pebble")
    assert 'id="featured"' not in (await shown(browser)).text
    answer = await operator.post(f"/v1/platform/catalog/{model_id}/feature", json={"featured": True})
    assert answer.status_code == 200, answer.text
    featured = (await shown(browser)).text.partition('id="featured"')[2].partition("</section>")[0]
    assert "pearl" in featured
    assert "pebble" not in featured
    assert 'id="featured"' not in (await shown(browser, "?q=p")).text


@pytest.mark.parametrize("lend", ["sqlite"], indirect=True)  # PostgreSQL plans by what is in the table
async def test_featured_models_are_found_by_their_index(app: Application) -> None:
    async with app.database.read() as session:
        plan = await session.execute(text("EXPLAIN QUERY PLAN SELECT * FROM shares WHERE featured = 1"))
        assert "ix_shares_featured" in str(plan.all())


async def test_a_targeted_share_shows_to_its_project_alone(
    app: Application, owner: Tenant, browser: httpx.AsyncClient, colleague: Somebody, project: str, stranger: Somebody
) -> None:
    model_id = str(await make_model(app, owner.project.id, name="quiet"))
    body = {"audience": {"projects": [project]}}
    assert (await owner.http.post(f"/v1/models/{model_id}/share", json=body)).status_code == 200
    for http in (browser, colleague.http, stranger.http):
        assert cards(await shown(http)) == []
    page = await shown(colleague.http, f"?as={project}")
    assert cards(page) == ["quiet"]
    assert "shared with you" in page.text
    assert f"{CATALOG}/{model_id}?as={project}" in links(page)
    assert f'<option value="{project}" selected>' in page.text
    assert cards(await shown(browser, f"?as={project}")) == []
    assert (await stranger.get(f"{CATALOG}?as={project}")).status_code == 404


async def test_a_page_asks_the_database_no_more_for_many_models(
    app: Application, owner: Tenant, browser: httpx.AsyncClient
) -> None:
    async def statements() -> int:
        """That ask for what is shared; agents' work goes on meanwhile and asks for endpoints."""
        asked: list[str] = []

        def listen(*given: Any) -> None:
            asked.append(given[2])

        event.listen(Engine, "before_cursor_execute", listen)
        await shown(browser)
        event.remove(Engine, "before_cursor_execute", listen)
        return sum("FROM shares" in statement for statement in asked)

    await share(app, owner, "model-0")
    one = await statements()
    for n in range(1, 10):
        await share(app, owner, f"model-{n}")
    assert await statements() == one > 0


async def test_the_first_page_takes_less_than_a_hundred_kilobytes(
    app: Application, owner: Tenant, browser: httpx.AsyncClient
) -> None:
    for n in range(24):
        fields = {"family": f"family-{n}", "tags": tuple(f"tag-{n}-{k}" for k in range(3)), "license": f"licence-{n}"}
        await share(app, owner, f"a-model-with-a-long-name-{n}", **fields)
    page = await shown(browser)
    assert page.headers["content-encoding"] == "gzip"
    bytes_sent = len(gzip.compress(page.content, 5))
    for url in {*re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)}:
        part = await browser.get(unescape(url))
        assert part.headers["content-encoding"] == "gzip"
        bytes_sent += len(gzip.compress(part.content, 9))
    assert bytes_sent < 100_000


async def test_many_requests_from_one_address_are_too_many(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"public_requests_per_minute": 2}))
    async with app.running(), client_of(app) as http:
        answers = [(await http.get(CATALOG)).status_code for _ in range(5)]
    assert answers[0] == 200
    assert answers[-1] == 429


@pytest.mark.parametrize(
    "words", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "\u202egpj.exe", "W" * 200]
)
async def test_hostile_words_stay_words(
    app: Application, owner: Tenant, browser: httpx.AsyncClient, words: str
) -> None:
    model_id = await share(app, owner, "odd", family=words, tags=(words[:64],), license=words)
    taken = words.strip("\u202e")  # beside what an older release took
    patch = {"display_name": taken, "description": taken * 10, "tags": [taken[:64]], "license": taken}
    answer = await owner.http.patch(f"/v1/models/{model_id}", json=patch)
    assert answer.status_code == 200, answer.text
    page = await shown(browser)
    for hostile in ("<script>alert", "<img", "\u202e"):
        assert hostile not in page.text
    assert cards(page) == [cards(page)[0]]
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for url in links(page):
        if url.startswith(f"{CATALOG}?family="):
            assert cards(await shown(browser, url.removeprefix(CATALOG))) == cards(page)


async def test_other_projects_names_stay_theirs(app: Application, browser: httpx.AsyncClient) -> None:
    borg = await new_tenant(app, "borg")
    async with borg.http:
        await share(app, borg, "tiny")
    assert "borg / tiny" in lines(await shown(browser))
