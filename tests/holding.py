"""`modelshare hold`, as a child process and in the test's own."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from anyio.from_thread import start_blocking_portal

from conftest import Tenant
from modelshare.agent.hold.files import HeldFiles
from modelshare.agent.hold.holder import Holder
from modelshare.agent.identity import Identity, load_identity, save_identity
from modelshare.agent.server_api import ServerApi
from modelshare.client import Client
from modelshare.client.push import wait_until_ready
from modelshare.client.source import read_source
from modelshare.wire.agents import Enroll, JoinKeyCreate
from modelshare.wire.held import HeldOpen
from modelshare.wire.uploads import FileEntry
from programs import MODELSHARE, stop
from served import wait_until
from shell import write_model


@contextlib.contextmanager
def holding(url: str, key: str | None, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Holds `folder`/model for the duration of the block; `hold.log` beside it has what is printed."""
    data = str(folder / "hold")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELSHARE_")}
    environment |= {"MODELSHARE_URL": url, "MODELSHARE_CONFIG": str(folder / "config.json")}
    if key is not None:
        environment["MODELSHARE_API_KEY"] = key
    command = [*MODELSHARE, "hold", str(folder / "model"), "--data-dir", data, *words]
    with (folder / "hold.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def said(folder: Path) -> str:
    return (folder / "hold.log").read_text()


@dataclass
class Held:
    """A model of `tenant` on this machine, held in this process."""

    tenant: Tenant
    folder: Path
    agent_id: str
    files: HeldFiles
    holder: Holder

    async def register(self, name: str = "tiny", **fields: Any) -> httpx.Response:
        """Hashes the folder and registers what is there."""
        source = read_source(self.folder)
        digests = self.files.hash(self.folder, source.files, lambda _: None)
        self.files.serve(source.files, digests)
        entries = [{"path": file.path, "size": file.size, "sha256": digests[file.path]} for file in source.files]
        body = {"holder": self.agent_id, "name": name, "files": entries} | fields
        return await self.tenant.http.post("/v1/held-versions", json=body)

    async def ended(self, model_id: str) -> dict[str, Any]:
        """The newest version, once it is no longer being processed."""

        async def check() -> dict[str, Any] | None:
            version = (await self.tenant.http.get(f"/v1/models/{model_id}/versions")).json()["data"][0]
            return dict(version) if version["status"] != "processing" else None

        return await wait_until(check)

    async def published(self) -> dict[str, Any]:
        """The registered model, once its version is ready."""
        answer = await self.register()
        assert answer.status_code == 201, answer.text
        version = await self.ended(answer.json()["model"])
        assert version["status"] == "ready", version
        return dict((await self.tenant.http.get(f"/v1/models/{answer.json()['model']}")).json())


async def enrolled_holder(tenant: Tenant) -> tuple[str, str]:
    """The id and the token of an agent that may hold files of the project."""
    made = await tenant.http.post("/v1/join-keys", json={"name": "laptop"})
    body = {"join_key": made.json()["key"], "name": "laptop", "is_holder": True}
    answer = await tenant.http.post("/v1/enroll", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["agent_id"], answer.json()["token"]


@asynccontextmanager
async def held(url: str, tenant: Tenant, folder: Path, **options: Any) -> AsyncIterator[Held]:
    """Writes a tiny model into `folder`/model and links a holder of it to the platform at `url`."""
    model, data = folder / "model", folder / "hold"
    if not model.exists():
        write_model(model)
        data.mkdir()
    identity = load_identity(data)
    if identity is None:
        identity = Identity(*await enrolled_holder(tenant))
        save_identity(data, identity)
    files = HeldFiles(data)
    async with aiohttp.ClientSession() as http:
        holder = Holder(url, identity, data, files, http, **options)
        holder.listen()
        tasks = [asyncio.create_task(holder.link.run()), asyncio.create_task(holder.watch())]
        try:
            await asyncio.wait_for(holder.connected.wait(), 60)
            yield Held(tenant, model, identity.agent_id, files, holder)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await holder.stop_listening()
            holder.close()


Publish = Callable[[Client, Path, str, str], None]
"""Makes a folder a version of the model of this name, and returns when it is ready."""


@asynccontextmanager
async def _linked(url: str, key: str, data: Path) -> AsyncIterator[tuple[HeldFiles, str]]:
    """What a holder that is linked to the platform serves, and its id."""
    files = HeldFiles(data)
    async with aiohttp.ClientSession() as http:
        with Client(url, key) as client:
            join_key = client.join_keys.create(JoinKeyCreate(name="laptop")).key
        enrolled = await ServerApi(http, url).enroll(Enroll(join_key=join_key, name="laptop", is_holder=True))
        holder = Holder(url, Identity(enrolled.agent_id, enrolled.token, enrolled.verdict_key), data, files, http)
        link = asyncio.create_task(holder.link.run())
        try:
            await asyncio.wait_for(holder.connected.wait(), 60)
            yield files, enrolled.agent_id
        finally:
            link.cancel()
            await asyncio.gather(link, return_exceptions=True)
            holder.close()


@contextlib.contextmanager
def holder_in_a_thread(url: str, key: str, data: Path) -> Iterator[Publish]:
    """One holder for many folders, beside tests that are not asynchronous."""
    data.mkdir()
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_linked(url, key, data)) as linked:
        files, agent_id = linked

        def publish(client: Client, folder: Path, name: str, version: str) -> None:
            source = read_source(folder)
            digests = files.hash(folder, source.files, lambda _: None)
            files.serve(source.files, digests)
            entries = [FileEntry(path=each.path, size=each.size, sha256=digests[each.path]) for each in source.files]
            held = client.models.hold(HeldOpen(name=name, version=version, files=entries, holder=agent_id))
            wait_until_ready(client, held.model, version)

        yield publish
