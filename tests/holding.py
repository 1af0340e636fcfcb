"""`modelshare hold` as a child process."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from programs import MODELSHARE, stop


@contextlib.contextmanager
def holding(url: str, key: str | None, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Holds `folder`/model for the duration of the block; `hold.log` beside it has what is printed."""
    data = str(folder / "hold")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELSHARE_")}
    environment |= {"MODELSHARE_URL": url, "MODELSHARE_CONFIG": str(folder / "config.json")}
    if key is not None:
        environment["MODELSHARE_API_KEY"] = key
    command = [*MODELSHARE, "hold", str(folder / "model"), "--data-dir", data, *words]
    with (folder / "hold.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def said(folder: Path) -> str:
    return (folder / "hold.log").read_text()
