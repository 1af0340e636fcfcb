"""Stock clients of other forms, unmodified, each with a cache of its own."""

import os
import subprocess
import sys
from pathlib import Path

OFFLINE = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def run(words: list[str], url: str, token: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a program with `HF_ENDPOINT` and `HF_TOKEN`, as a user would."""
    named = {"HF_ENDPOINT": f"{url}/hf", "HF_TOKEN": token, "HF_HOME": str(home), "LLAMA_CACHE": str(home / "llama")}
    environment = {**os.environ, **OFFLINE, **named, **more}
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=home.parent
    )


def hf(arguments: list[str], url: str, token: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """The `hf` command."""
    return run([str(Path(sys.executable).with_name("hf")), *arguments], url, token, home, **more)


def python(code: str, url: str, token: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-W", "ignore", "-c", code], url, token, home, **more)
