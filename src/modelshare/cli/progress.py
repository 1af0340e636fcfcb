"""A push as people watch it: bars on a terminal, a line per phase where stderr goes elsewhere."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)

from modelshare.cli.output import say
from modelshare.cli.words import size
from modelshare.client.push import Phase, Progress
from modelshare.wire.uploads import Upload

_WORDS = {
    Phase.HASHING: "Looking for files that are stored already",
    Phase.COMPARING: "Comparing what is there",
    Phase.SENDING: "Sending",
    Phase.PROCESSING: "The server checks the files",
}


class PushProgress(Progress):
    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not self._on_terminal,
        )
        self._task: TaskID | None = None
        self._phase: Phase | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def phase(self, phase: Phase, total: int, done: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._phase = phase
        self._task = self._bars.add_task(_WORDS[phase], total=total or None, completed=done)
        nothing_to_send = phase is Phase.SENDING and total == done
        if not self._on_terminal and not nothing_to_send:
            say(f"{_WORDS[phase]}: {size(total - done)}." if total > done else f"{_WORDS[phase]}.")

    def moved(self, size: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, size)

    def session(self, upload: Upload) -> None:
        if any(file.parts_done and not file.reused for file in upload.files):
            say(f"Going on with the push of {upload.name} {upload.version}: {size(upload.bytes_done)} are there.")

    def farewell(self) -> str:
        """What to say after Ctrl-C."""
        if self._phase is Phase.PROCESSING:
            return "Stopped waiting; the server goes on. `modelshare models list` shows the status."
        return "Stopped. The same command goes on where it was, within 24 hours."
