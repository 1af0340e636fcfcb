"""`make bench`: runs every benchmark and writes `benchmarks/RESULTS.md` with machine, date and commit."""

import datetime as dt
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
"""Some benchmarks start their servers by what the tests start theirs by."""
ALL = {
    "cold_start.py": "Cold start",
    "push.py": "Push",
    "pull.py": "Pull",
    "bucket.py": "Own bucket",
    "router.py": "Inference path",
    "revocation.py": "Revocation",
    "restarts.py": "Restarts",
    "limits.py": "Limits of three processes",
    "sharing.py": "Share and unshare",
    "storage_local.py": "Folder store",
    "webhooks.py": "Webhooks",
    "frames.py": "Arbitrary frames",
    "catalog.py": "Catalog search",
}


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    ).stdout.strip()
    lines = [
        "# Results",
        "",
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, commit {commit or 'unknown'}, {os.cpu_count()} cores, "
        f"{platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}.",
        "",
        "Each figure is a ratio to a yardstick of the same run. `make bench` writes this page anew.",
    ]
    for name in names:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, HERE / name], capture_output=True, text=True, check=False, env=env)
        output = done.stdout.strip() or done.stderr.strip()
        print(output, flush=True)
        lines += ["", f"## {ALL[name]}", "", f"`python benchmarks/{name}`", "", "```", output, "```"]
    (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
