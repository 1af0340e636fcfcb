"""The catalog's search, with facets, at 10 k, 100 k and 1 M shared models, on SQLite and on PostgreSQL.

    PYTHONPATH=tests python benchmarks/catalog.py [--models 10000 100000 1000000] [--rounds 40]

Requests go to the whole application in this process, from the request's first byte to the answer's last: what a server
takes, without a network. The yardstick is `GET /v1/tiers` in the same run. Target: p99 at most 25 ms at 1 M on both
databases, and growth below linear. Both databases run as they come.
"""

import argparse
import itertools
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
import catalog_rows
import uvloop

from modelshare.server import migrations
from modelshare.server.app import Application, create_app
from modelshare.server.db import Database
from modelshare.server.settings import Settings
from postgres import postgres_server, run_sql

Query = dict[str, str | int]
HOSTILE = ('" OR * NEAR(', "'; DROP TABLE models; --", "x " * 100, "日本語" * 60, "a b c d e f g h i j", "\x00", "%_\\")
SORTS = ("relevance", "recent", "deployments", "parameters", "name")


def kinds(dice: random.Random, models: int) -> dict[str, Callable[[], Query]]:
    """What is asked for."""

    def family() -> str:
        return dice.choice(catalog_rows.FAMILIES)

    def typo(word: str) -> str:
        at = dice.randrange(1, len(word))
        return word[:at] + dice.choice("aeioux") + word[at:]

    return {
        "first page": dict,
        **{f"by {sort}": lambda sort=sort: {"sort": sort} for sort in SORTS[1:]},  # type: ignore[misc]
        "as you type": lambda: {"q": f"{family()}-3"[: dice.randint(1, 6)]},
        "common word": lambda: {"q": dice.choice((*catalog_rows.FAMILIES[:4], *catalog_rows.KINDS[:3], "quantized"))},
        "two common words": lambda: {
            "q": f"{dice.choice(catalog_rows.FAMILIES[:8])} {dice.choice(catalog_rows.KINDS)}"
        },
        "common word, any order": lambda: {"q": family(), "sort": dice.choice(SORTS)},
        "one model": lambda: {"q": f"{dice.randrange(models):06}"},
        "rare word": lambda: {"q": f"rare{dice.randrange(max(models // catalog_rows.RARE, 1))}x"},
        "word and rare filter": lambda: {"q": family(), "license": "gpl-3.0", "role": "shared"},
        "filters alone": lambda: {"family": family(), "format": "gguf", "sort": dice.choice(SORTS)},
        "range": lambda: {
            "min_parameters": 10**9 * dice.choice((1, 3, 8, 40)),
            "max_parameters": 10**11,
            "q": family(),
        },
        "odd range": lambda: {"q": "llama", "min_parameters": 12 * 10**9, "max_parameters": 13 * 10**9},
        "typo": lambda: {"q": typo(dice.choice(catalog_rows.FAMILIES[:12]))},
        "nothing": lambda: {"q": f"zzq{dice.randrange(10**6)} {family()}"},
        "hostile": lambda: {"q": dice.choice(HOSTILE)},
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--models", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments.add_argument("--rounds", type=int, default=40, help="of each kind of query")
    arguments.add_argument("--databases", nargs="+", default=["SQLite", "PostgreSQL"])
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "SQLite" in given.databases:
            path = Path(folder) / "modelshare.db"
            measure("SQLite", f"sqlite:///{path}", lambda *span: catalog_rows.fill_sqlite(path, *span), given)
    with postgres_server() as server:
        if "PostgreSQL" in given.databases:
            run_sql(f"{server}/postgres", "CREATE DATABASE catalog")
            url = f"{server}/catalog"
            measure("PostgreSQL", url, lambda *span: catalog_rows.fill_postgres(url, *span), given)


def measure(name: str, url: str, fill: Callable[[int, int], None], given: argparse.Namespace) -> None:
    settings = Settings(data_dir=Path(tempfile.mkdtemp()), database_url=url, public_requests_per_minute=10**9)
    uvloop.run(migrate(settings))
    for before, models in itertools.pairwise([0, *given.models]):
        began = time.perf_counter()
        fill(before, models)
        print(f"{name}, {models:,} models (loaded in {time.perf_counter() - began:.0f} s)", flush=True)
        uvloop.run(report(settings, models, given.rounds))
    for what, size in uvloop.run(sizes(url)):
        print(f"  {what:40} {size / 1e6:9.1f} MB")


async def migrate(settings: Settings) -> None:
    database = Database(settings.database)
    await migrations.upgrade(database)
    await database.close()


async def report(settings: Settings, models: int, rounds: int) -> None:
    dice = random.Random(models)
    every: list[float] = []
    application = create_app(settings)
    async with application.running():
        asking = Asking(application)
        yardstick = statistics.median([(await asking.get("/v1/tiers"))[0] for _ in range(50)])
        for kind, make in {**kinds(dice, models), "deep pages": None}.items():
            times = []
            queries = [make() for _ in range(rounds)] if make else [{}]
            for query in queries:
                if make:
                    times.append((await asking.search(query))[0])
                else:
                    times += [each async for each in asking.deep(rounds)]
            every += times
            print(f"  {kind:26} {_figures(times)}", flush=True)
    print(f"  {'all':26} {_figures(every)}   {_p99(every) / yardstick:5.1f} x GET /v1/tiers ({yardstick:.2f} ms)")


def _figures(times: list[float]) -> str:
    return f"p50 {statistics.median(times):7.1f} ms   p99 {_p99(times):7.1f} ms   max {max(times):7.1f} ms"


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


class Asking:
    """Sends requests to the application in this process."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def search(self, query: Query) -> tuple[float, dict[str, Any]]:
        return await self.get(f"/v1/catalog/models?{urlencode({'facets': 'true', **query})}")

    async def deep(self, pages: int) -> AsyncIterator[float]:
        """One page after another, without facets, as a client does that lists everything."""
        query: Query = {"q": "llama", "facets": "false"}
        for _ in range(pages):
            took, page = await self.search(query)
            yield took
            query["after"] = page["next_cursor"] or ""

    async def get(self, target: str) -> tuple[float, dict[str, Any]]:
        """Milliseconds and the answer."""
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
        }
        scope |= {
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("x", 80),
            "scheme": "http",
            "http_version": "1.1",
        }
        body = bytearray()
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))

        began = time.perf_counter()
        await self._application(scope, receive, send)
        took = (time.perf_counter() - began) * 1000
        if status != 200:
            raise RuntimeError(f"{target}: {status} {body[:300]!r}")
        return took, json.loads(body)


async def sizes(url: str) -> list[tuple[str, int]]:
    """Of the search's tables and indexes, in bytes."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        statement = "SELECT name, sum(pgsize) FROM dbstat WHERE name LIKE '%catalog%' GROUP BY name ORDER BY 2 DESC"
        return [*connection.execute(statement), *connection.execute("SELECT 'all tables', sum(pgsize) FROM dbstat")]
    postgres = await asyncpg.connect(url)
    statement = (
        "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relname LIKE '%catalog%' AND relkind IN ('r', 'i')"
    )
    found = await postgres.fetch(f"{statement} ORDER BY 2 DESC")
    whole = await postgres.fetchval("SELECT pg_database_size(current_database())")
    await postgres.close()
    return [*((row[0], row[1]) for row in found), ("all tables", whole)]


if __name__ == "__main__":
    main()
