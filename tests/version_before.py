"""The version before this one, built from its commit: what runs beside this one during an upgrade."""

import os
import subprocess
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from programs import program

COMMIT = os.environ.get("MODELSHARE_VERSION_BEFORE", "923a1d315debe02e85f5ae22afeb2bf70c021c9e")
"""Of the version that runs until the upgrade; raised with each release."""
Start = Callable[..., "subprocess.Popen[str]"]
_ROOT = Path(__file__).parents[1]


def unpack(folder: Path) -> Path:
    """Its sources, to be put on PYTHONPATH; libraries are those of this version."""
    made = subprocess.run(["git", "archive", COMMIT, "src"], cwd=_ROOT, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"commit {COMMIT} is not in this checkout: clone it with its history")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def starter(sources: Path) -> Start:
    """Starts its `modelshare`, as `programs.program` starts this one's, without the settings that it does not know."""
    known = (sources / "modelshare/server/settings.py").read_text(encoding="utf-8")

    def start(words: list[str], *, env: dict[str, str], **others: Any) -> "subprocess.Popen[str]":
        settings = {name for name in env if name.startswith("MODELSHARE_") and words[0] == "serve"}
        newer = {name for name in settings if f" {name.removeprefix('MODELSHARE_').lower()}: " not in known}
        kept = {name: value for name, value in env.items() if name not in newer}
        return program(words, env={**kept, "PYTHONPATH": str(sources)}, **others)

    return start
