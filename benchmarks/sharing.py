"""Share + unshare pairs on one model from 32 clients: over three processes on PostgreSQL, and over one on SQLite.

    PYTHONPATH=tests python benchmarks/sharing.py [--seconds 5] [--clients 32]

Each client shares and unshares in turn, as fast as it is answered. A pair is a share that was effective and the unshare
that was: the audit log has one row for each, and they must alternate. Who comes second finds the model shared already
(200) or not shared any more (404). The yardstick is one client alone. PostgreSQL runs with durability on.
Target: at least 100 pairs/s on PostgreSQL, no lost update, no deadlock.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from sqlalchemy import text

from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.server.db import Database
from postgres import postgres_server
from programs import SECRET, Server, serving

CHANGES = text("SELECT action FROM audit_log WHERE outcome = 'done' AND action LIKE '%share' ORDER BY id")
DEADLOCKS = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    arguments.add_argument("--clients", type=int, default=32)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres_server(durable=True) as server:
        measure("PostgreSQL", Path(folder) / "postgresql", f"{server}/postgres", 3, given.clients, given.seconds)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/modelshare.db"
        measure("SQLite", Path(folder) / "sqlite", url, 1, given.clients, given.seconds)


def measure(name: str, folder: Path, url: str, processes: int, clients: int, seconds: float) -> None:
    folder.mkdir()
    with ExitStack() as stack:

        def start(number: int) -> Server:
            return stack.enter_context(serving(folder / str(number), database_url=url, secret=SECRET))

        first = start(0)
        project = first.project("acme")
        write_gguf(folder / "tiny.gguf")
        with first.client(project) as client:
            model = push_model(client, folder / "tiny.gguf", name="tiny").model.id
        servers = [first, *(start(number) for number in range(1, processes))]
        targets = [Target(server, model, project.api_key) for server in servers]
        print(f"{name}, {processes} {'process' if processes == 1 else 'processes'}")
        for count in (1, clients):
            before = uvloop.run(changes(url))
            answered = uvloop.run(load(targets, count, seconds))
            report(count, seconds, answered, uvloop.run(changes(url))[len(before) :])
    if name == "PostgreSQL":
        print(f"  deadlocks {uvloop.run(scalar(url))}")


class Target:
    """What a client sends to one process."""

    def __init__(self, server: Server, model: str, key: str) -> None:
        parts = urlsplit(server.url)
        self.address = parts.hostname, parts.port
        self.requests = {
            action: (
                f"POST /v1/models/{model}/{action} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
                f"authorization: Bearer {key}\r\ncontent-length: 0\r\n\r\n"
            ).encode()
            for action in ("share", "unshare")
        }


async def load(targets: Sequence[Target], clients: int, seconds: float) -> Counter[tuple[str, int]]:
    """How often each action was answered with each status."""
    answered: Counter[tuple[str, int]] = Counter()
    ends = asyncio.get_running_loop().time() + seconds

    async def work(number: int) -> None:
        target = targets[number % len(targets)]
        actions = list(target.requests)
        if number // len(targets) % 2:  # half of them begin with the other action: in step, all would want the same
            actions.reverse()
        reader, writer = await asyncio.open_connection(*target.address)
        while asyncio.get_running_loop().time() < ends:
            for action in actions:
                writer.write(target.requests[action])
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                answered[action, int(head[9:12])] += 1
        writer.close()

    await asyncio.gather(*(work(number) for number in range(clients)))
    return answered


def report(clients: int, seconds: float, answered: Counter[tuple[str, int]], done: Sequence[str]) -> None:
    pairs = done.count("model.unshare")
    alternate = all(action == ("model.share", "model.unshare")[number % 2] for number, action in enumerate(done))
    lost = pairs - answered["unshare", 200]
    others = sum(count for (_, status), count in answered.items() if status not in {200, 404})
    print(
        f"  {clients:2} at once {pairs / seconds:7.0f} pairs/s   {sum(answered.values()) / seconds:6.0f} requests/s   "
        f"alternating {'yes' if alternate else 'NO'}   lost {lost}   other answers {others}"
    )


async def changes(url: str) -> list[str]:
    """The audit log's effective shares and unshares, in order."""
    database = _database(url)
    async with database.read() as session:
        found = list(await session.scalars(CHANGES))
    await database.close()
    return found


async def scalar(url: str) -> int:
    database = _database(url)
    async with database.read() as session:
        count = int(await session.scalar(DEADLOCKS) or 0)
    await database.close()
    return count


def _database(url: str) -> Database:
    return Database(url.replace("postgresql:", "postgresql+asyncpg:").replace("sqlite:", "sqlite+aiosqlite:"))


if __name__ == "__main__":
    main()
