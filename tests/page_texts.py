"""What pages say, read as people do."""

import re
from html import unescape

import httpx


def lines(answer: httpx.Response) -> str:
    """What a page says, without its tags."""
    return _words(answer.text)


def message(answer: httpx.Response) -> str:
    """What a page says went wrong."""
    found = re.search(r'role="alert"[^>]*>(.*?)</(?:p|div)>', answer.text, re.DOTALL)
    assert found, answer.text
    return _words(_plain(found[1]))


def text_of(answer: httpx.Response, status: int = 200) -> str:
    """What a page with this status says, with code in its sentences as other words."""
    assert answer.status_code == status, answer.text
    return _words(_plain(answer.text))


async def went_on(client: httpx.AsyncClient, answer: httpx.Response) -> str:
    """What the page says that a form led to."""
    assert answer.status_code == 303, answer.text
    return text_of(await client.get(answer.headers["location"]))


def _plain(html: str) -> str:
    return re.sub(r"</?code>", "", html)


def _words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
