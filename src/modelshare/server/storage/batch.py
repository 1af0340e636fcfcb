"""Writes many small files at once: the slowest step, flushing to disk, is done for all of them in parallel."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from modelshare import private_files
from modelshare.server.storage.growing_digest import GrowingDigest
from modelshare.server.storage.staging import PartWriter, Staging, no_room, sync_data


@dataclass(frozen=True, slots=True)
class Arrival:
    """A complete file of one part, whose digest was verified."""

    staged: Staging
    growing: GrowingDigest
    content: memoryview
    sha256: str


def write_all(arrivals: Sequence[Arrival], executor: Executor) -> None:
    """Blocks. The files are listed as stored once all of them are on disk."""
    changed = [arrival for arrival in arrivals if arrival.staged.mark(0) != arrival.sha256]
    files: list[int] = []
    try:
        for arrival in changed:
            file = arrival.staged.open()
            files.append(file)
            arrival.growing.invalidate(0)
            arrival.staged.clear_mark(0)
            PartWriter(file, 0).write([arrival.content])
        with no_room():
            list(executor.map(sync_data, files))
    finally:
        for file in files:
            os.close(file)
    for arrival in changed:
        arrival.staged.set_mark(0, arrival.sha256)
        arrival.growing.part_written(0, arrival.sha256, executor)


def sync_folders(paths: Iterable[Path]) -> None:
    """Makes renames into the folders of these files durable."""
    for folder in {path.parent for path in paths}:
        private_files.sync_folder(folder)
