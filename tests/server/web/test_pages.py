"""What holds for every page: errors are said on pages, whatever is sent and whatever breaks."""

import re
import uuid
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from modelshare.server.api import api
from modelshare.server.app import Application
from modelshare.server.errors import RateLimitedError
from modelshare.server.web.pages import PageRoute
from page_texts import message
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = pytest.mark.anyio
RUBBISH = ("%00", "%ff%fe", "..%2f..", "a" * 3000, "%E2%80%A8%0D%0A")
"""Instead of the last name in a path."""
FORMS = (
    ("application/x-www-form-urlencoded", b"%00=%ff&%ED%A0%80"),
    ("application/json", b'{"name": "\\ud800"}'),
    ("multipart/form-data", b"no boundary"),
    ("multipart/form-data; boundary=x", b"--x\r\nrubbish"),
)
HTMX = {"HX-Request": "true"}


def addresses(method: str, project: str) -> Iterator[str]:
    """Of every page but live parts, which have no end; what is named in them is not there."""
    for context in iter_route_contexts(api().routes):
        path, is_page = context.path or "", isinstance(context.original_route, PageRoute)
        if is_page and method in (context.methods or ()) and not path.endswith("/events"):
            yield re.sub(r"{\w+}", str(uuid.UUID(int=1)), path.replace("{project}", project))


def says(answer: httpx.Response) -> bool:
    """It is a page, or the way to one."""
    is_html = answer.headers.get("content-type", "").startswith("text/html")
    return answer.status_code == 303 or (answer.status_code < 500 and is_html)


@ON_BOTH_DATABASES
async def test_rubbish_in_addresses_is_refused_on_a_page(colleague: Somebody, project: str) -> None:
    for path in addresses("GET", project):
        for rubbish in RUBBISH:
            answer = await colleague.get(f"{path.rpartition('/')[0]}/{rubbish}")
            assert says(answer), (path, rubbish, answer.status_code, answer.text)


async def test_what_is_no_form_is_refused_on_a_page(colleague: Somebody, project: str) -> None:
    for path in addresses("POST", project):
        for kind, content in FORMS:
            answer = await colleague.http.post(path, content=content, headers={"Content-Type": kind})
            assert says(answer), (path, kind, answer.status_code, answer.text)


async def test_a_form_that_cannot_be_read_says_so(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/sign-in", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert answer.status_code == 400
    assert message(answer) == "The form could not be read. Go back, reload the page and try again."


async def test_the_address_of_a_form_is_no_page(colleague: Somebody, project: str) -> None:
    answer = await colleague.get(f"/dashboard/{project}/members/invitations")
    assert answer.status_code == 404
    assert message(answer).startswith("There is no such page.")


@pytest.mark.parametrize("announced", [True, False])
async def test_a_huge_form_is_not_read(browser: httpx.AsyncClient, announced: bool) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 500_000
            yield b"&a=" + b"x" * 500_000

    length = {"Content-Length": "500003000"} if announced else {}
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await browser.post("/sign-in", content=chunks(), headers={**kind, **length})
    assert answer.status_code == 413
    assert read < 400_000_000


async def test_scripts_go_on_to_any_path(browser: httpx.AsyncClient, person: Somebody) -> None:
    """Header values are ASCII; paths are not."""
    form = {"email": person.email, "password": "a quiet walk home", "next": "/models/catalog?q=中"}
    answer = await browser.post("/sign-in", data=form, headers=HTMX)
    assert answer.headers["hx-redirect"] == "/models/catalog?q=%E4%B8%AD"


@ON_BOTH_DATABASES
async def test_whoever_cannot_be_looked_up_gets_an_error_page(app: Application) -> None:
    async with app.database.write() as session:
        await session.execute(text("ALTER TABLE sessions RENAME TO away"))
    headers = {"Accept": "text/html", "Cookie": "modelshare_session=anybody"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://modelshare.test", headers=headers) as http:
        answers = [await http.get(path) for path in ("/", "/there-is-no-such-page")]
    async with app.database.write() as session:
        await session.execute(text("ALTER TABLE away RENAME TO sessions"))
    for answer in answers:
        assert answer.status_code == 500
        assert message(answer).startswith("Something went wrong on our side.")


async def test_one_person_has_so_many_live_parts(app: Application) -> None:
    live = app.platform.live
    person, other = uuid.uuid4(), uuid.uuid4()

    async def part() -> str:
        return "<p>Here.</p>"

    streams = [aiter(live.stream(person, "a project", part).body_iterator) for _ in range(40)]
    for stream in streams:
        assert await anext(stream) == "data: <p>Here.</p>\n\n"
    with pytest.raises(RateLimitedError, match="You have 40 live pages open"):
        live.stream(person, "a project", part)
    live.stream(other, "a project", part)
    await streams[0].aclose()  # type: ignore[attr-defined]
    live.stream(person, "a project", part)
