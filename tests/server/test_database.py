"""What the database promises, whichever it is."""

import pytest
from sqlalchemy import text

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.app import Application

pytestmark = pytest.mark.anyio
PROJECTS = text("SELECT count(*) FROM projects")


async def test_a_read_sees_one_state(app: Application) -> None:
    """Even where something is written between its statements."""
    async with app.database.read() as reading:
        before = await reading.scalar(PROJECTS)
        async with app.database.write() as writing:
            writing.add(ProjectRow(name="Acme", slug="acme", created_at=0))
        assert (before, await reading.scalar(PROJECTS)) == (0, 0)
    async with app.database.read() as reading:
        assert await reading.scalar(PROJECTS) == 1
