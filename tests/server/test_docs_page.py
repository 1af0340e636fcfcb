"""`/docs`: the whole API, and nothing fetched from anybody else."""

import re

import httpx
import pytest

pytestmark = pytest.mark.anyio


async def test_docs_come_from_here_alone(anonymous: httpx.AsyncClient) -> None:
    page = (await anonymous.get("/docs")).text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert source.startswith("/")
        assert (await anonymous.get(source)).status_code == 200
