"""The text of pages, as users read it."""

import re
from html import unescape

import httpx


def lines(answer: httpx.Response) -> str:
    """The text of a page, without tags."""
    return _words(answer.text)


def message(answer: httpx.Response) -> str:
    """The error message on a page."""
    found = re.search(r'role="alert"[^>]*>(.*?)</(?:p|div)>', answer.text, re.DOTALL)
    assert found, answer.text
    return _words(_plain(found[1]))


def text_of(answer: httpx.Response, status: int = 200) -> str:
    """The text of a page with this status; inline code does not separate words."""
    assert answer.status_code == status, answer.text
    return _words(_plain(answer.text))


async def went_on(client: httpx.AsyncClient, answer: httpx.Response) -> str:
    """The text of the page to which a form redirected."""
    assert answer.status_code == 303, answer.text
    return text_of(await client.get(answer.headers["location"]))


def _plain(html: str) -> str:
    return re.sub(r"</?code>", "", html)


def _words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
