"""Push of a model by the CLI to a real server with local storage, until it is ready, against `cp` + `sha256sum`.

    python benchmarks/push.py [--gib 4] [--files 8] [--rounds 2] [--folder DIR]

The yardstick copies the files one after another, then hashes the copies; target >= 0.7, and the server below 300 MiB.
Rounds alternate, and the best of each side counts, since what slows a round down is other work on the machine. Each
push is of bytes that the server does not store yet, and ends when the server has hashed and judged them.
"""

import argparse
import json
import os
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
TARGET = 0.7
MEMORY_TARGET = 300  # MiB


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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--gib", type=float, default=4.0)
    arguments.add_argument("--files", type=int, default=8)
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--folder", default=None, help="where to work; the system's temporary folder by default")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        rounds = [measure(Path(name), int(given.gib * (1 << 30)), given.files) for _ in range(given.rounds)]
    plain, ours, again = (min(column) for column in list(zip(*rounds, strict=True))[:3])
    peak = max(row[3] for row in rounds)
    print(f"cp + sha256sum     {plain:7.2f} s   {given.gib / plain:5.2f} GiB/s")
    print(f"push until ready   {ours:7.2f} s   {given.gib / ours:5.2f} GiB/s   server's peak {peak:.0f} MiB")
    print(f"the same again     {again:7.2f} s   nothing sent, nothing stored")
    print(f"ratio              {plain / ours:7.2f}     target >= {TARGET}, peak < {MEMORY_TARGET} MiB")


def measure(folder: Path, total: int, count: int) -> tuple[float, float, float, float]:
    """Seconds of the yardstick, of a push, of another push of the same; the server's peak in MiB."""
    model = folder / "model"
    make_model(model, total, count)
    plain = timed(lambda: copy_and_hash(model, folder / "copy"))
    shutil.rmtree(folder / "copy")
    with serving(folder / "server") as server:
        ours = timed(lambda: push(server, model, "bench"))
        again = timed(lambda: push(server, model, "again"))
        peak = server.peak_mib()
    shutil.rmtree(folder / "server")
    shutil.rmtree(model)
    return plain, ours, again, peak


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


def copy_and_hash(model: Path, copy: Path) -> None:
    subprocess.run(["cp", "-r", str(model), str(copy)], check=True)
    subprocess.run(["sha256sum", *map(str, copy.iterdir())], check=True, stdout=subprocess.DEVNULL)


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


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
