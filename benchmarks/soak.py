"""Whether the database stays as large as it is: chats, pushes, shares, deletions and keys at a steady rate.

    PYTHONPATH=tests python benchmarks/soak.py [--minutes 30] [--database postgresql|sqlite] [--chats 5] [--changes 1]

The platform runs in this process, on a real port and database, with its chores; the agent is a program of its own.
Records are kept for 90 s instead of days, and retention sweeps every 20 s. Printed each minute: the size of the
database, and the rows of every table that has some. At the end: which tables have more rows than in the middle.
"""

import argparse
import asyncio
import contextlib
import itertools
import logging
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import structlog
from router import CHAT, engine
from sqlalchemy import func, select, text

from modelshare.demo.tiny_model import write_gguf
from modelshare.server import startup
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application
from modelshare.server.migrations.tables import metadata
from modelshare.server.retention.sweep import Retention
from modelshare.server.settings import Settings
from modelshare.wire.keys import ProjectCreate
from postgres import postgres_server
from programs import agent
from served import free_port, serving, wait_until
from uploading import pushed, tiny_model

KEPT_DAYS = 90 / 86_400
SWEEP_SECONDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--chats", type=float, default=5, help="a second")
    parser.add_argument("--changes", type=float, default=1, help="rounds of pushing, sharing and deleting a second")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres_server()) + "/postgres" if given.database == "postgresql" else ""
        asyncio.run(soak(Path(name), url, given))


async def soak(folder: Path, database: str, given: argparse.Namespace) -> None:
    kept = dict.fromkeys(("audit_days", "audit_confirmations_days", "deletions_days", "records_days"), KEPT_DAYS)
    settings = Settings(data_dir=folder / "data", database_url=database or None)
    settings = settings.model_copy(update={**kept, "uploads_expire_seconds": 60})
    async with startup.started(settings) as app, serving(app) as url, used(app, url, folder) as project:
        load = [
            asyncio.create_task(project.keep(project.chat, given.chats)),
            asyncio.create_task(project.keep(project.change, given.changes)),
            asyncio.create_task(keep_sweeping(app)),
        ]
        seen = []
        for minute in range(given.minutes):
            await asyncio.sleep(60)
            size, rows = await sizes(app)
            done = ", ".join(f"{count} {what}" for what, count in sorted(project.done.items()))
            print(f"{minute + 1:3} min  {size / 1e6:7.2f} MB  {done}\n         {_listed(rows)}", flush=True)
            seen.append((size, rows))
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
    (middle, before), (end, after) = seen[len(seen) // 2], seen[-1]
    grown = Counter({name: after[name] - before[name] for name in after if after[name] > before[name]})
    print(
        f"from the middle to the end: {(end - middle) / 1e6:+.2f} MB; tables with more rows: {_listed(grown) or 'none'}"
    )


async def keep_sweeping(app: Application) -> None:
    retention = Retention(app.platform)
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await retention.sweep()


class Project:
    """What it does, again and again."""

    def __init__(self, http: httpx.AsyncClient, chats: str) -> None:
        self.done: Counter[str] = Counter()
        self._http = http
        self._chats = chats
        self._number = 0

    async def keep(self, step: Callable[[], Awaitable[None]], rate: float) -> None:
        started = time.monotonic()
        for number in itertools.count(1):
            try:
                await step()
            except (httpx.HTTPError, AssertionError) as error:
                self.done[f"failed ({error!r:.80})"] += 1
            await asyncio.sleep(started + number / rate - time.monotonic())

    async def chat(self) -> None:
        answer = await self._http.post(self._chats, content=CHAT)
        self.done["chats" if answer.status_code == 200 else f"chats answered {answer.status_code}"] += 1

    async def change(self) -> None:
        """A model comes and goes, and so does a key."""
        self._number += 1
        model = await pushed(self._http, tiny_model(seed=self._number), f"model-{self._number}")
        key = (await self._http.post("/v1/keys", json={"name": "of a moment"})).json()
        for method, path in (
            ("POST", f"/v1/models/{model['id']}/share"),
            ("POST", f"/v1/models/{model['id']}/unshare"),
            ("DELETE", f"/v1/models/{model['id']}"),
            ("DELETE", f"/v1/keys/{key['id']}"),
        ):
            assert (await self._http.request(method, path)).status_code < 300, path
        self.done["changes"] += 1


@contextlib.asynccontextmanager
async def used(app: Application, url: str, folder: Path) -> AsyncIterator[Project]:
    """A project with an endpoint that an agent serves."""
    async with app.database.write() as session:
        request = ProjectCreate(name="Soak", slug="soak")
        project = await accounts.create_project(session, request, now=app.platform.now(), actor="system")
    engine_port = free_port()
    answering = asyncio.create_task(engine(engine_port))
    stack = contextlib.ExitStack()
    headers = {"Authorization": f"Bearer {project.api_key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        try:
            write_gguf(folder / "tiny.gguf", name="tiny")
            model = await pushed(http, {"tiny.gguf": (folder / "tiny.gguf").read_bytes()})
            spec = {"slug": "chat", "model": model["id"], "tier": "self_hosted"}
            assert (await http.post("/v1/endpoints", json=spec)).status_code == 201
            key = (await http.post("/v1/join-keys", json={"name": "box"})).json()["key"]
            external = "--engine", "external", "--external-url", f"http://127.0.0.1:{engine_port}"
            stack.enter_context(agent(url, folder / "agent", key, *external))

            async def is_active() -> bool:
                return bool((await http.get("/v1/endpoints/chat")).json()["status"] == "active")

            await wait_until(is_active)
            yield Project(http, f"/{project.id}/chat/v1/chat/completions")
        finally:
            await asyncio.to_thread(stack.close)
            answering.cancel()


async def sizes(app: Application) -> tuple[int, Counter[str]]:
    """Of the database, in bytes, and its rows by table."""
    size = "page_count * page_size FROM pragma_page_count, pragma_page_size"
    of_database = size if app.database.is_sqlite else "pg_database_size(current_database())"
    async with app.database.read() as session:
        rows = Counter(
            {
                table.name: int(await session.scalar(select(func.count()).select_from(table)) or 0)
                for table in metadata.sorted_tables
            }
        )
        return int(await session.scalar(text(f"SELECT {of_database}")) or 0), +rows


def _listed(rows: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(rows.items()))


if __name__ == "__main__":
    main()
