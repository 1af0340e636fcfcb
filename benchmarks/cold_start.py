"""`modelshare serve` on an empty folder until its first answer, against `python -c 'import fastapi'`.

    python benchmarks/cold_start.py [--rounds 5]

Rounds alternate, and the best of each side counts. Target: at most 3 x.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    # Byte code is written, as on a machine where the program was started before.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    starts, imports = [], []
    for _ in range(rounds + 1):
        imports.append(_import_fastapi(environment))
        starts.append(_first_answer(environment))
    start, imported = min(starts[1:]), min(imports[1:])
    print(f"import fastapi           {imported:.2f} s")
    print(f"serve until first answer {start:.2f} s")
    print(f"ratio                    {start / imported:.2f} x   (target <= 3)")


def _import_fastapi(environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fastapi"], check=True, env=environment)
    return time.perf_counter() - began


def _first_answer(environment: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        words = [sys.executable, "-m", "modelshare", "serve", "--port", str(port), "--data-dir", f"{folder}/data"]
        began = time.perf_counter()
        process = subprocess.Popen(words, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            while not _answers(port):
                time.sleep(0.005)
            return time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/catalog/models", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
