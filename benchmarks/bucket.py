"""The server's processor time of a push and a pull by the CLI: weights in a folder, and in a project's own bucket.

    PYTHONPATH=tests python benchmarks/bucket.py [--gib 4] [--files 2] [--idle 30] [--folder DIR]

With a folder all bytes pass through the server; with a bucket they go straight to it and come straight from it, so the
server's time is to be at most a twentieth. Nothing is subtracted: what the server does anyway meanwhile is included.
`idle` shows how much that is. A small model is pushed and pulled before, since the first requests load code. The bucket
is rclone's S3 server. Needs about four times the size on the disk.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from push import MODELSHARE, Server, children, make_model, push, serving

from modelshare.client import Client
from modelshare.wire.storage import StorageSet
from storage_servers import S3Server, s3_server

TARGET = 0.05
ATTEMPTS = 3
"""Of a pull, which resumes: on a busy machine the S3 server may send nothing for so long that a pull gives up."""
CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h


@dataclass(frozen=True)
class Spent:
    """What one step took."""

    seconds: float
    server: float
    """Its processor time."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--gib", type=float, default=4.0)
    arguments.add_argument("--files", type=int, default=2)
    arguments.add_argument("--idle", type=float, default=30.0, help="seconds for which the server is left alone first")
    arguments.add_argument("--folder", default=None, help="where to work; the system's temporary folder by default")
    given = arguments.parse_args()
    os.environ["MODELSHARE_STORAGE_ALLOW_PRIVATE"] = "true"
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        make_model(folder / "model", int(given.gib * (1 << 30)), given.files)
        make_model(folder / "small", 1 << 20, 1)
        ways = {way: measure(folder, way, given.idle) for way in ("folder", "bucket")}
    for step in ("push", "pull"):
        ratio = ways["bucket"][step].server / ways["folder"][step].server
        print(f"{step}: {ratio:6.1%} of the folder's   target <= {TARGET:.0%}")


def measure(folder: Path, way: str, idle: float) -> dict[str, Spent]:
    with ExitStack() as running:
        server = running.enter_context(serving(folder / way))
        if way == "bucket":
            keep_in(running.enter_context(s3_server(folder / "s3")), server)
        push(server, folder / "small", "small")
        pull(server, "small", folder / "small-pulled")
        steps: dict[str, Callable[[], None]] = {
            "idle": lambda: time.sleep(idle),
            "push": lambda: push(server, folder / "model", "bench"),
            "pull": lambda: pull(server, "bench", folder / "pulled"),
        }
        spent = {}
        for step, work in steps.items():
            spent[step] = each = measured(server, work)
            print(f"{way}: {step} {each.server:7.3f} s of the server's processor in {each.seconds:5.1f} s", flush=True)
    for left in (way, "pulled", "small-pulled", "s3"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return spent


def keep_in(bucket: S3Server, server: Server) -> None:
    """From now on the project's pushes go to the bucket."""
    storage = StorageSet(
        url=f"s3://{bucket.bucket}/mine",
        endpoint=bucket.endpoint,
        access_key_id=bucket.access_key,
        secret_access_key=bucket.secret_key,
    )
    with Client(server.url, server.key) as client:
        client.storage.set(storage)


def pull(server: Server, model: str, folder: Path) -> None:
    environment = os.environ | {"MODELSHARE_URL": server.url, "MODELSHARE_API_KEY": server.key}
    words = [*MODELSHARE, "pull", model, str(folder), "--json"]
    for _ in range(ATTEMPTS):
        done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
        if not done.returncode:
            return
    sys.exit(f"the pull failed: {done.stderr or done.stdout}")


def measured(server: Server, work: Callable[[], None]) -> Spent:
    before = used(server)
    cost = children(work)
    return Spent(cost.seconds, used(server) - before)


def used(server: Server) -> float:
    """Processor seconds of the server so far, with those of processes that it has waited for."""
    fields = Path(f"/proc/{server.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    waited_for = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    # The clock of another process (clock_getcpuclockid(3)), since /proc counts in steps of 10 ms.
    return time.clock_gettime((~server.pid << 3) | CPUCLOCK_SCHED) + waited_for


if __name__ == "__main__":
    main()
