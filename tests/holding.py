"""`modelshare hold`, as a child process and in the test's own."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from conftest import Tenant
from modelshare.agent.hold.files import HeldFiles
from modelshare.agent.hold.holder import Holder
from modelshare.agent.identity import Identity, load_identity, save_identity
from modelshare.client.source import read_source
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
        tasks = [asyncio.create_task(holder.link.run()), asyncio.create_task(holder.watch())]
        try:
            await asyncio.wait_for(holder.connected.wait(), 60)
            yield Held(tenant, model, identity.agent_id, files, holder)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            holder.close()
