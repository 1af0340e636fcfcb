"""An upgrade as an operator makes it: `modelshare db`, and the version before and this one side by side."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from invariants import contradictions, stale_entries
from link_agent import LinkAgent, answer, enroll, linked
from modelshare.cli.exit_codes import ExitCode
from modelshare.server import migrations
from modelshare.server.app import create_app
from modelshare.server.settings import Settings
from modelshare.wire.link import Request
from postgres import EmptyDatabases
from programs import SECRET
from programs import serving as serving_program
from served import serving, wait_until
from shell import Shell, write_model
from uploading import pushed, tiny_model
from version_before import Start, starter, unpack

HEAD = migrations.HEAD


@pytest.fixture
def here(tmp_path: Path) -> Shell:
    return Shell({"PATH": "", "COLUMNS": "300", "MODELSHARE_DATA_DIR": str(tmp_path / "data")}, tmp_path)


def set_revision(here: Shell, revision: str) -> None:
    with contextlib.closing(sqlite3.connect(here.folder / "data" / "modelshare.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def test_db_says_what_is_there_and_what_is_needed(here: Shell) -> None:
    empty = here.run("db", "check")
    assert (empty.returncode, "no database yet" in empty.stderr) == (ExitCode.FAILED, True)
    assert not (here.folder / "data").exists(), "it changes nothing"
    assert "There is no database yet" in here.refused("db", "downgrade", "0026")

    here.says("db", "upgrade")
    assert f"at revision {HEAD}, which is what this version needs" in here.says("db", "check")
    assert here.json("db", "check") == {"revision": HEAD, "needed": HEAD, "state": "current"}

    assert "at revision 0026. Start the version" in here.says("db", "downgrade", "0026")
    older = here.run("db", "check")
    assert older.returncode == ExitCode.FAILED
    assert f"at revision 0026, and this version needs {HEAD}. Run `modelshare db upgrade`" in older.stderr
    assert "no way to revision `9999`" in here.refused("db", "downgrade", "9999")
    assert f"at revision {HEAD}" in here.says("db", "upgrade")


def test_a_downgrade_that_deletes_asks_first(here: Shell) -> None:
    here.says("db", "upgrade")
    with contextlib.closing(sqlite3.connect(here.folder / "data" / "modelshare.db")) as connection, connection:
        connection.execute(
            "INSERT INTO projects (id, name, slug, created_at, require_signature) VALUES ('p', 'A', 'a', 1, 1)"
        )
    refused = here.refused("db", "downgrade", "0018")
    assert "would delete the content of `projects.require_signature`. Make a backup, then repeat" in refused
    assert here.json("db", "check")["state"] == "current"
    assert here.json("db", "downgrade", "0018", "--yes") == {"revision": "0018"}


def test_serve_on_a_newer_schema_says_so_in_one_sentence(here: Shell) -> None:
    here.says("db", "upgrade")
    set_revision(here, "9999")
    for words in (["serve", "--port", "0"], ["db", "upgrade"], ["admin", "replace-secret"]):
        line = here.refused(*words)
        assert line.startswith(f"Error: The database is at revision 9999, and this version of modelshare knows {HEAD}.")
        assert "bug" not in line
    newer = here.run("db", "check", "--json")
    assert (newer.returncode, json.loads(newer.stdout)["state"]) == (ExitCode.FAILED, "too_new")


@dataclass
class Site:
    """One of the two servers, with a machine that is linked to it, as the project sees it."""

    http: httpx.AsyncClient
    machine: LinkAgent
    endpoints: list[str] = field(default_factory=list)


async def answers(link: LinkAgent, request: Request, _: bytes) -> None:
    await link.send(answer(request, b'{"choices": []}', tokens=(3, 8)))


async def follow(link: LinkAgent) -> None:
    """Reports as ready whatever it is to hold."""
    done = 0
    while True:
        await asyncio.sleep(0.05)
        if link.desired and len(link.desired.deployments) != done:
            done = len(await link.make_ready(len(link.desired.deployments)))


@dataclass
class Project:
    id: str
    key: str
    shared: set[str] = field(default_factory=set)
    chats: int = 0

    @contextlib.asynccontextmanager
    async def at(self, url: str, token: str) -> AsyncIterator[Site]:
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http,
            linked(url, token, handler=answers) as machine,
        ):
            following = asyncio.ensure_future(follow(machine))
            yield Site(http, machine)
            following.cancel()

    async def publish(self, site: Site, name: str) -> None:
        """Pushes and shares a model, and deploys it."""
        model = await pushed(site.http, tiny_model(seed=len(self.shared)), name)
        assert model["status"] == "ready", model
        assert (await site.http.post(f"/v1/models/{name}/share")).status_code == 200
        self.shared.add(name)
        spec = {"slug": name, "model": str(model["id"]), "tier": "self_hosted"}
        made = await site.http.post("/v1/endpoints", json=spec)
        assert made.status_code == 201, made.text

    async def chat(self, site: Site, slug: str) -> None:
        """Once the endpoint is ready, an answer that is counted."""

        async def answered() -> bool:
            body = {"model": slug, "messages": [{"role": "user", "content": "Hello"}]}
            reply = await site.http.post(f"/{self.id}/{slug}/v1/chat/completions", json=body)
            assert reply.status_code in {200, 503}, reply.text
            return reply.status_code == 200

        await wait_until(answered)
        self.chats += 1

    async def sees_all(self, site: Site) -> None:
        """What it has shared is in the catalog and found, and what it was answered is counted."""

        async def is_complete() -> bool:
            entries = (await site.http.get("/v1/catalog/models", params={"limit": 200})).json()["data"]
            return self.shared == {entry["name"] for entry in entries}

        async def is_counted() -> bool:
            rows = (await site.http.get("/v1/usage")).json()["data"]
            return bool(self.chats == sum(row["requests"] - row["errors"] for row in rows))

        await wait_until(is_complete)
        for name in self.shared:
            found = (await site.http.get("/v1/catalog/models", params={"q": name})).json()["data"]
            assert name in {entry["name"] for entry in found}
        await wait_until(is_counted)


@contextlib.asynccontextmanager
async def load(project: Project, site: Site) -> AsyncIterator[None]:
    """Somebody who unshares and shares a model and asks an endpoint, all the time; nothing of it may fail."""
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            for action in ("unshare", "share"):
                reply = await site.http.post(f"/v1/models/first/{action}")
                assert reply.status_code == 200, reply.text
            await project.chat(site, "first")

    working = asyncio.ensure_future(work())
    try:
        yield
    finally:
        over.set()
        await working


async def old_client_pushes(start: Start, url: str, project: Project, folder: Path) -> None:
    """The command line of the version before, at this version's server."""
    environment = {"PATH": "", "MODELSHARE_URL": url, "MODELSHARE_API_KEY": project.key, "HOME": str(folder)}
    words = ["push", str(write_model(folder / "model", seed=99)), "--name", "pushed", "--json"]
    with (folder / "client.log").open("w+") as log:
        client = start(words, stderr=log, env=environment, cwd=folder)
        out, _ = await asyncio.to_thread(client.communicate)
        log.seek(0)
        assert client.returncode == 0, log.read()
    assert json.loads(out)["status"] == "ready"


@pytest.mark.anyio
async def test_the_version_before_and_this_one_side_by_side(empty_databases: EmptyDatabases, tmp_path: Path) -> None:
    """Nothing that either writes is lost or hidden, during the upgrade and when the older one is gone."""
    old_server = starter(unpack(tmp_path / "before"))
    with empty_databases.new() as url:
        storage = f"file://{tmp_path / 'weights'}"
        settings = Settings(data_dir=tmp_path / "new", database_url=url, secret=SECRET, storage_url=storage)
        before = serving_program(tmp_path / "old", old_server, database_url=url, secret=SECRET, storage_url=storage)
        async with contextlib.AsyncExitStack() as stack:
            old_stack = contextlib.ExitStack()
            stack.callback(old_stack.close)
            server = await asyncio.to_thread(old_stack.enter_context, before)
            made = server.project("acme")
            project = Project(made.id, made.api_key)
            headers = {"Authorization": f"Bearer {project.key}"}
            async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
                tokens = [(await enroll(http, name=name))[1] for name in ("one", "two")]
            async with contextlib.AsyncExitStack() as at_old:
                old = await at_old.enter_async_context(project.at(server.url, tokens[0]))
                await project.publish(old, "first")
                await project.chat(old, "first")

                async with load(project, old):
                    app = create_app(settings)
                    await stack.enter_async_context(app.running())
                    new_url = await stack.enter_async_context(serving(app))
                new = await stack.enter_async_context(project.at(new_url, tokens[1]))
                for number, site in enumerate((new, old, new)):
                    await project.publish(site, f"more-{number}")
                for site in (old, new):
                    for slug in project.shared:
                        await project.chat(site, slug)
                    await project.sees_all(site)
                await old_client_pushes(old_server, new_url, project, tmp_path)
            await asyncio.to_thread(old_stack.close)

            for slug in project.shared:
                await project.chat(new, slug)
            await project.sees_all(new)
            await project.publish(new, "afterwards")

            async def are_rebuilt() -> bool:
                return not await stale_entries(app.database)

            await wait_until(are_rebuilt)
            assert await contradictions(app.database) == 0
