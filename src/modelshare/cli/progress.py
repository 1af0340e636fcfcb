"""Shows the progress of transfers: bars on a terminal, otherwise one line per phase."""

from collections.abc import Sequence
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
from rich.status import Status

from modelshare.cli.formatting import size
from modelshare.cli.output import print_message
from modelshare.client.pull import PullProgress
from modelshare.client.push import Progress, PushPhase
from modelshare.client.source import PushSource
from modelshare.wire.importing import Import, ImportState
from modelshare.wire.left_out import note
from modelshare.wire.secret_scan import ExposedSecret
from modelshare.wire.uploads import Upload

_WORDS = {
    PushPhase.DIGESTS: "Hashing",
    PushPhase.HASHING: "Looking for files that are already stored",
    PushPhase.COMPARING: "Comparing with what the server has",
    PushPhase.SENDING: "Sending",
    PushPhase.CHECKING: "Checking that no file changed during the push",
    PushPhase.PROCESSING: "The server is checking the files",
}

_ENDLESS = frozenset({PushPhase.CHECKING, PushPhase.PROCESSING})
"""Phases without a known total."""


class PushProgress(Progress):
    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._phase: PushPhase | None = None
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._shown: Bars | Status | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._display(None)

    def source(self, source: PushSource, exposed: Sequence[ExposedSecret]) -> None:
        if left_out := note(source.left_out):
            print_message(f"{left_out} Use `--include` to push one of them anyway.")
        for each in exposed:
            print_message(f"Warning: {each}")
        if exposed:
            print_message(
                "Anyone who runs the model gets these files. Revoke the keys where they were issued, and push "
                "without them."
            )

    def phase(self, phase: PushPhase, total: int, done: int) -> None:
        self._phase, self._task = phase, None
        if not self._console.is_terminal:
            if total > done or phase in _ENDLESS:
                print_message(f"{_WORDS[phase]}: {size(total - done)}." if total else f"{_WORDS[phase]}.")
        elif phase in _ENDLESS:
            self._display(self._console.status(_WORDS[phase]))
        else:
            self._bars = _bars(self._console)
            self._task = self._bars.add_task(_WORDS[phase], total=total, completed=done)
            self._display(self._bars)

    def moved(self, size: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, size)

    def session(self, upload: Upload) -> None:
        if any(file.parts_done and not file.reused for file in upload.files):
            print_message(
                f"Resuming the push of {upload.name} {upload.version}: {size(upload.bytes_done)} already sent."
            )

    def done(self) -> None:
        """Shows no progress any more."""
        self._display(None)

    def interruption_message(self) -> str:
        """The message after Ctrl-C."""
        if self._phase is PushPhase.PROCESSING:
            return "Stopped waiting; the server carries on. `modelshare models list` shows the status."
        return "Stopped. Run the same command within 24 hours to resume."

    def _display(self, what: Bars | Status | None) -> None:
        if self._shown is not None:
            self._shown.stop()
        self._shown = what
        if what is not None:
            what.start()


class TransferProgress(PullProgress):
    """A bar on a terminal, otherwise one line."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._console = Console(stderr=True)
        self._bars = _bars(self._console)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._task is not None:
            self._bars.stop()

    def started(self, total: int) -> None:
        if not self._console.is_terminal:
            print_message(f"{self._action}: {size(total)}.")
            return
        self._task = self._bars.add_task(self._action, total=total)
        self._bars.start()

    def moved(self, size: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, size)


class ImportProgress:
    """A bar for the bytes that have arrived on a terminal, otherwise one line per phase."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._said: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def show(self, found: Import) -> None:
        if found.state is ImportState.IMPORTING and found.reason:
            self._stop()
            self._say(found.reason)
        elif found.state is ImportState.IMPORTING and found.bytes_total is not None:
            if self._console.is_terminal:
                self._advance(found.bytes_done, found.bytes_total)
            else:
                self._say(f"Importing: {size(found.bytes_total)}.")
        elif found.state is ImportState.PROCESSING:
            self._stop()
            self._say(f"{_WORDS[PushPhase.PROCESSING]}.")

    def _advance(self, done: int, total: int) -> None:
        if self._bars is None or self._task is None:
            self._bars = _bars(self._console)
            self._task = self._bars.add_task("Importing", total=total)
            self._bars.start()
        self._bars.update(self._task, completed=done)

    def _say(self, message: str) -> None:
        if message != self._said:
            print_message(message)
        self._said = message

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None


def _bars(console: Console) -> Bars:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Bars(SpinnerColumn(), TextColumn("{task.description}"), *columns, console=console, transient=True)
