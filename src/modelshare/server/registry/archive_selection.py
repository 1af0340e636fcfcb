"""Which files of an archive are taken: those that a push of the unpacked folder would take."""

from collections.abc import Sequence
from typing import Final

from modelshare.server.registry.refused import ModelRejectedError
from modelshare.wire.left_out import IGNORE_FILE, LeftOut, Selection

_MAX_WORK: Final = 40_000_000
"""Steps of matching, a few hundred nanoseconds each, of one walk."""


class ArchiveSelection:
    """Decides for one walk over an archive, and remembers what it left out.

    Patterns are relative to the folder that holds everything, which shows only at the end: a first walk, which does not
    know it, leaves out what either reading of a path would, and a second one decides.
    """

    def __init__(self, selection: Selection | None = None, *, top: str | None = None) -> None:
        """`top`: the folder that holds everything, '' for none; None as long as it is not known."""
        self.top = top
        self._selection = selection or Selection()
        self._prefix = None if top is None else f"{top}/" if top else ""
        self._left_out: dict[LeftOut, None] = {}
        self._took_any = False
        self._work = 0

    def takes(self, path: str) -> bool:
        """Of a file, or of a folder with a `/` at its end. An ignore file is taken as long as it has not been read."""
        if self._prefix is None and path.rpartition("/")[2] == IGNORE_FILE:
            return True
        self._work += self._selection.work(path)
        if self._work > _MAX_WORK:
            raise ModelRejectedError(
                "There are too many patterns for so many files; give fewer or simpler ones, and push again."
            )
        found = self._found(path.rstrip("/"), is_folder=path.endswith("/"))
        if found is not None:
            self._left_out[found] = None
        self._took_any |= found is None
        return found is None

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Relative to the folder that holds everything, as soon as that is known."""
        prefix = f"{self.top}/" if self.top and self._prefix is None else ""
        return [LeftOut(found.path.removeprefix(prefix), found.reason) for found in self._left_out]

    def again(self, lines: Sequence[str] | None) -> "ArchiveSelection | None":
        """For a second walk, where the first did not know enough; `lines` are the ignore file's, where there is one.

        Also where the folder that holds everything has the name of one that is left out, such as `runs`.
        """
        if self._prefix is not None:
            return None
        if self.top is None:
            tops = {found.path for found in self._left_out}
            top = tops.pop() if len(tops) == 1 and not self._took_any else ""
            return (
                ArchiveSelection(self._selection, top=top[:-1]) if top.endswith("/") and top.count("/") == 1 else None
            )
        if lines is None and not self._selection.patterns:
            return None
        return ArchiveSelection(self._selection.with_ignored(lines or ()), top=self.top)

    def _found(self, path: str, *, is_folder: bool) -> LeftOut | None:
        if self._prefix is not None:
            if is_folder and path == self.top:
                return None
            return self._selection.left_out(path.removeprefix(self._prefix), is_folder=is_folder)
        found = self._selection.left_out(path, is_folder=is_folder)
        top, _, below = path.partition("/")
        if found is None and below and (inner := self._selection.left_out(below, is_folder=is_folder)):
            return LeftOut(f"{top}/{inner.path}", inner.reason)
        return found
