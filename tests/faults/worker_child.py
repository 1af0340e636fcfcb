"""A process that takes a job and never ends it: `worker_child.py DATABASE HOLDER`. Prints the job's subject."""

import asyncio
import sys
import time

from modelshare.server.db import Database
from modelshare.server.jobs import Lease, Worker


async def main(url: str, holder: str) -> None:
    async def never(lease: Lease) -> None:
        print(lease.subject, flush=True)  # noqa: T201 - read by the test
        await asyncio.Event().wait()

    database = Database(url)
    await Worker(database, {"work": never}, time.time, holder=holder).start()
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
