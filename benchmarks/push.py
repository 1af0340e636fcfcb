"""Push of a model by the CLI to a real server with local storage, until it is ready, against `cp` + `openssl dgst`.

    python benchmarks/push.py [--gib 4] [--files 8] [--rounds 2] [--folder DIR] [--small 3000]

The yardstick copies the files one after another, then hashes the copies with OpenSSL; target >= 0.8. `cp` leaves the
bytes in memory, while a push is only ready when they are on the disk, so the same with `fdatasync` is shown beside it.
The server's processor time per GiB is to be at most twice that of the yardstick, and its memory below 300 MiB.
Rounds alternate, and the best of each side counts, since what slows a round down is other work on the machine. Each
push is of bytes that the server does not store yet, and ends when the server has hashed and judged them.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODELSHARE = (sys.executable, "-m", "modelshare")
BLOCK = 8 << 20
TARGET = 0.8
CPU_TARGET = 2.0
MEMORY_TARGET = 300  # MiB
SMALL_TARGET = 8  # ms
SMALL_BYTES = 2_000


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu: float
    """User and system seconds."""


@dataclass(frozen=True)
class Server:
    url: str
    key: str
    pid: int

    def peak_mib(self) -> float:
        """The most memory it held at once."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Round:
    copied: Cost
    synced: float
    pushed: Cost
    server: float
    """Its processor time."""
    again: float
    peak: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--gib", type=float, default=4.0)
    arguments.add_argument("--files", type=int, default=8)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--folder", default=None, help="where to work; the system's temporary folder by default")
    arguments.add_argument("--small", type=int, default=3000, help="small files in one more push; 0 for none")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        rounds = [measure(folder, int(given.gib * (1 << 30)), given.files) for _ in range(given.rounds)]
        report(given.gib, rounds)
        if given.small:
            cost = push_small(folder, given.small)
            each = cost / given.small * 1000
            print(f"{given.small} small files {cost:7.2f} s   {each:5.2f} ms each   target <= {SMALL_TARGET} ms")


def report(gib: float, rounds: list[Round]) -> None:
    copied, synced = min(each.copied.seconds for each in rounds), min(each.synced for each in rounds)
    pushed, again = min(each.pushed.seconds for each in rounds), min(each.again for each in rounds)
    plain, server = min(each.copied.cpu for each in rounds), min(each.server for each in rounds)
    client, peak = min(each.pushed.cpu for each in rounds), max(each.peak for each in rounds)
    print(f"cp + openssl       {copied:7.2f} s   {gib / copied:5.2f} GiB/s   CPU {plain / gib:5.2f} s/GiB")
    print(f"cp, sync + openssl {synced:7.2f} s   {gib / synced:5.2f} GiB/s")
    print(
        f"push until ready   {pushed:7.2f} s   {gib / pushed:5.2f} GiB/s   CPU {client / gib:5.2f} s/GiB, server's "
        f"{server / gib:5.2f} s/GiB, its peak {peak:.0f} MiB"
    )
    print(f"the same again     {again:7.2f} s   nothing sent, nothing stored")
    print(f"ratio              {copied / pushed:7.2f}     target >= {TARGET}; with sync {synced / pushed:.2f}")
    print(f"server's CPU       {server / plain:7.2f} x   target <= {CPU_TARGET}; peak < {MEMORY_TARGET} MiB")


def measure(folder: Path, total: int, count: int) -> Round:
    model, copy = folder / "model", folder / "copy"
    make_model(model, total, count)
    copied = children(lambda: copy_and_hash(model, copy))
    shutil.rmtree(copy)
    synced = children(lambda: copy_and_hash(model, copy, sync=True))
    shutil.rmtree(copy)
    with serving(folder / "server") as server:
        before = server.cpu()
        pushed = children(lambda: push(server, model, "bench"))
        used = server.cpu() - before
        again = children(lambda: push(server, model, "again"))
        peak = server.peak_mib()
    shutil.rmtree(folder / "server")
    shutil.rmtree(model)
    return Round(copied, synced.seconds, pushed, used, again.seconds, peak)


def push_small(folder: Path, count: int) -> float:
    """Seconds of a push of so many small files beside one model."""
    model = folder / "small"
    make_model(model, 1 << 20, 1)
    for number in range(count):
        (model / f"part-{number:05}.json").write_bytes(b'"' + os.urandom(SMALL_BYTES // 2).hex().encode() + b'"')
    with serving(folder / "server") as server:
        return children(lambda: push(server, model, "small")).seconds


def make_model(folder: Path, total: int, count: int) -> None:
    """Safetensors files of random bytes."""
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    for number in range(count):
        size = total // count
        tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
        header = json.dumps({f"layer.{number}": tensor}).encode()
        with (folder / f"model-{number + 1:05}-of-{count:05}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for start in range(0, size, BLOCK):
                file.write(os.urandom(min(BLOCK, size - start)))
    os.sync()


def copy_and_hash(model: Path, copy: Path, *, sync: bool = False) -> None:
    subprocess.run(["cp", "-r", str(model), str(copy)], check=True)
    if sync:
        subprocess.run(["sync", "-d", *map(str, copy.iterdir())], check=True)
    subprocess.run(["openssl", "dgst", "-sha256", *map(str, copy.iterdir())], check=True, stdout=subprocess.DEVNULL)


def push(server: Server, model: Path, name: str) -> None:
    environment = os.environ | {"MODELSHARE_URL": server.url, "MODELSHARE_API_KEY": server.key}
    words = [*MODELSHARE, "push", str(model), "--name", name, "--json"]
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the push failed: {done.stderr or done.stdout}")


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    folder.mkdir()
    words = [*MODELSHARE, "serve", "--json", "--port", "0", "--data-dir", str(folder / "data")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
    try:
        assert process.stdout is not None
        first = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        yield Server(first["url"], first["project_key"], process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def children(work: Callable[[], None]) -> Cost:
    """What `work` cost, with the programs that it ran and waited for."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - start, cpu)


if __name__ == "__main__":
    main()
