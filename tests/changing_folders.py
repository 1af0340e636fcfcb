"""Folders in which another process deletes files while a test lists them."""

import contextlib
import os
from pathlib import Path


def files_below(folder: Path) -> dict[Path, os.stat_result]:
    """All files that are still there when their turn comes. `Path.rglob` fails where a folder vanishes."""
    found = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat()
    return found


def contents_of(folder: Path) -> dict[str, bytes]:
    """As `files_below`, with what is in them, by their path below the folder."""
    found = {}
    for path in files_below(folder):
        with contextlib.suppress(FileNotFoundError):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found
