"""From a change until every process of three goes by it, on one PostgreSQL.

    PYTHONPATH=tests python benchmarks/revocation.py [--rounds 100] [--seconds 300]

A key is revoked, a model is shared, unshared, an endpoint is deactivated. Each change is sent to one process, in turn;
all three are polled until they go by it, and the slowest counts, from the moment the change was sent. Beside it stands
what the audit row of the same change tells: how long the last process took to confirm, by the database's clock.
Everything is real: three `modelshare serve`, their HTTP, PostgreSQL. Target: p99 below 1 s.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from postgres import postgres_server, run_sql
from programs import SECRET, Server, serving

PROCESSES = 3
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 10.0
"""A change that is not seen everywhere by then ends the run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="of each change")
    parser.add_argument("--seconds", type=float, default=300.0, help="the longest that all rounds may take")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        run_sql(f"{postgres}/postgres", "CREATE DATABASE benchmark")
        shared = {
            "database_url": f"{postgres}/benchmark",
            "secret": SECRET,
            "public_requests_per_minute": "1000000",
        }
        servers = [
            stack.enter_context(serving(Path(name) / "shared", port=0, platform_key="", **shared))
            for _ in range(PROCESSES)
        ]
        asyncio.run(measure(servers, Path(name), given.rounds, given.seconds))


async def measure(servers: list[Server], folder: Path, rounds: int, seconds: float) -> None:
    async with tried(servers, folder) as trial:
        ends = time.monotonic() + seconds
        took: dict[str, list[float]] = defaultdict(list)
        done = 0
        while done < rounds and time.monotonic() < ends:
            for action, change in trial.changes.items():
                took[action].append(await change(done % PROCESSES))
            done += 1
        told = await trial.told()
    print(f"{done} of {rounds} rounds, {PROCESSES} processes on one PostgreSQL; the slowest process of each round")
    for action, polled in took.items():
        print(f"  {action:31} polled  {quantiles([1000 * value for value in polled])}")
        print(f"  {'':31} audited {quantiles(told[action])}")
    print(f"polled: from sending the change; polls come {1000 * POLL_SECONDS:g} ms apart, which is part of the figure")
    print("audited: from the change's row until the last process's confirmation, as GET /v1/audit tells")
    worst = max(p99(values) for values in [*told.values(), *([1000 * one for one in each] for each in took.values())])
    print(f"worst p99 {worst:.0f} ms   (target < 1000 ms)")


@dataclass(frozen=True)
class Trial:
    """What is changed, and those who look."""

    owners: list[httpx.AsyncClient]
    """The owner's clients, one for each process; so the next one."""
    others: list[httpx.AsyncClient]
    project_id: str
    model_id: str

    @property
    def changes(self) -> dict[str, Callable[[int], Awaitable[float]]]:
        """By what happens: makes the change on a process, and answers the seconds until all went by it."""
        return {
            "key revoked, refused": self.revoke,
            "model shared, in the catalog": self.share,
            "model unshared, refused": self.unshare,
            "endpoint deactivated, refused": self.deactivate,
        }

    async def revoke(self, where: int) -> float:
        key = (await self.owners[where].post("/v1/keys", json={"name": "ending"})).json()
        headers = {"Authorization": f"Bearer {key['key']}"}

        async def status(http: httpx.AsyncClient) -> int:
            return (await http.get("/v1/models", headers=headers)).status_code

        assert [await status(http) for http in self.owners] == [200] * PROCESSES
        return await self._until(lambda: self.owners[where].delete(f"/v1/keys/{key['id']}"), status, 401)

    async def share(self, where: int) -> float:
        async def status(http: httpx.AsyncClient) -> int:
            return (await http.get(f"/v1/catalog/models/{self.model_id}")).status_code

        return await self._until(lambda: self.owners[where].post(f"/v1/models/{self.model_id}/share"), status, 200)

    async def unshare(self, where: int) -> float:
        spec = {"slug": "taken", "model": self.model_id, "tier": "self_hosted"}
        await self.others[where].post("/v1/endpoints", json=spec)  # from then on 409, and 404 once it is unshared

        async def status(http: httpx.AsyncClient) -> int:
            return (await self.others[self.owners.index(http)].post("/v1/endpoints", json=spec)).status_code

        return await self._until(lambda: self.owners[where].post(f"/v1/models/{self.model_id}/unshare"), status, 404)

    async def deactivate(self, where: int) -> float:
        async def code(http: httpx.AsyncClient) -> str:
            return str((await http.get(f"/{self.project_id}/chat/v1/models")).json()["error"]["code"])

        def switch(*, on: bool) -> Awaitable[httpx.Response]:
            return self.owners[where].patch("/v1/endpoints/chat", json={"is_active": on})

        await self._until(lambda: switch(on=True), code, "model_loading")
        return await self._until(lambda: switch(on=False), code, "endpoint_inactive")

    async def told(self) -> dict[str, list[float]]:
        """By what happened: the milliseconds that the audit rows tell, of the last process to confirm each."""
        await asyncio.sleep(1)  # the last confirmations
        names = {"key.revoke": 0, "model.share": 1, "model.unshare": 2, "endpoint.change": 3}
        found: dict[str, list[float]] = defaultdict(list)
        cursor: str | None = ""
        while cursor is not None:
            page = (await self.owners[0].get(f"/v1/audit?limit=200{cursor}")).json()
            for entry in page["data"]:
                if entry["action"] in names and entry["details"].get("is_active") is not True:
                    assert len(entry["confirmations"]) == PROCESSES, entry
                    action = list(self.changes)[names[entry["action"]]]
                    found[action].append(max(one["after_ms"] for one in entry["confirmations"]))
            cursor = f"&after={page['next_cursor']}" if page["has_more"] else None
        return found

    async def _until(
        self,
        change: Callable[[], Awaitable[httpx.Response]],
        look: Callable[[httpx.AsyncClient], Awaitable[int | str]],
        wanted: int | str,
    ) -> float:
        """Seconds from sending the change until each process was seen to go by it."""
        began = time.perf_counter()

        async def poll(http: httpx.AsyncClient) -> float:
            while await look(http) != wanted:
                assert time.perf_counter() - began < PATIENCE_SECONDS, f"{http.base_url} does not go by the change"
                await asyncio.sleep(POLL_SECONDS)
            return time.perf_counter() - began

        seen = asyncio.gather(*map(poll, self.owners))
        (await change()).raise_for_status()
        return max(await seen)


@contextlib.asynccontextmanager
async def tried(servers: list[Server], folder: Path) -> AsyncIterator[Trial]:
    """Two projects, a model, and an endpoint that waits for a machine."""
    first = servers[0]
    owner, other = first.project("owner"), first.project("other")
    with Client(first.url, owner.api_key) as client:
        write_gguf(folder / "tiny.gguf", name="tiny")
        model = push_model(client, folder / "tiny.gguf", name="tiny").model
    async with contextlib.AsyncExitStack() as stack:
        owners: list[httpx.AsyncClient] = []
        others: list[httpx.AsyncClient] = []
        for server in servers:
            for clients, key in ((owners, owner.api_key), (others, other.api_key)):
                http = httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
                clients.append(await stack.enter_async_context(http))
        spec = {"slug": "chat", "model": model.id, "tier": "self_hosted"}
        (await owners[0].post("/v1/endpoints", json=spec)).raise_for_status()
        yield Trial(owners, others, owner.id, model.id)


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return f"p50 {ordered[len(ordered) // 2]:6.1f} ms   p99 {p99(values):6.1f} ms   max {ordered[-1]:6.1f} ms"


def p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


if __name__ == "__main__":
    main()
