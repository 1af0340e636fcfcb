"""What pages say, read as people do."""

import re
from html import unescape

import httpx


def text_of(answer: httpx.Response, status: int = 200) -> str:
    """What a page says, without its tags."""
    assert answer.status_code == status, answer.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", re.sub(r"</?code>", "", answer.text))).split())


async def went_on(client: httpx.AsyncClient, answer: httpx.Response) -> str:
    """What the page says that a form led to."""
    assert answer.status_code == 303, answer.text
    return text_of(await client.get(answer.headers["location"]))
