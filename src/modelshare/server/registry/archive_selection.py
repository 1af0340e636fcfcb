"""Selects the files of an archive, a bucket or another place: the same as a push of the folder."""

from collections.abc import Iterable, Sequence
from typing import Final

from modelshare.server.registry.paths import check_paths
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.uploads.rules import check_named_model
from modelshare.wire import model_files
from modelshare.wire.left_out import IGNORE_FILE, LeftOut, Reason, Selection

_MAX_WORK: Final = 40_000_000
"""Steps of pattern matching per pass, a few hundred nanoseconds each."""


class ArchiveSelection:
    """Selects files during one pass over an archive, and records what it left out.

    Patterns are relative to the single top-level folder, which is known only after a pass. The first pass therefore
    leaves out files that match a pattern with or without their first folder, and a second pass decides.
    """

    def __init__(self, selection: Selection | None = None, *, top: str | None = None) -> None:
        """`top`: the single top-level folder, '' if there is none, None while it is unknown."""
        self.top = top
        self._selection = selection or Selection()
        self._prefix = None if top is None else f"{top}/" if top else ""
        self._left_out: dict[LeftOut, None] = {}
        self._took_any = False
        self._work = 0

    def takes(self, path: str) -> bool:
        """Whether a file, or a folder (with `/` at its end), is unpacked. The first pass unpacks ignore files to read
        them."""
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
        """Files left out, relative to the single top-level folder once that is known."""
        prefix = f"{self.top}/" if self.top and self._prefix is None else ""
        return [LeftOut(found.path.removeprefix(prefix), found.reason) for found in self._left_out]

    def again(self, lines: Sequence[str] | None) -> "ArchiveSelection | None":
        """The selection for a second pass, or None if none is needed. `lines`: those of the ignore file, if there is
        one.

        A second pass is also needed if the top-level folder itself was left out because of its name, such as `runs`.
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


def choose(
    paths: Iterable[str], selection: Selection, *, file: str | None, allow_pickle: bool, skip_pickles: bool = False
) -> tuple[list[str], Sequence[LeftOut]]:
    """Blocks. The paths to publish, sorted, and what is left out. Raises ModelRejectedError if they are no model.

    `skip_pickles`: leaves out pickles that are not allowed if there are other weights, instead of rejecting them.
    """
    chosen = ArchiveSelection(selection, top="")
    taken = sorted(path for path in paths if chosen.takes(path))
    left_out = list(chosen.left_out)
    if skip_pickles and not allow_pickle and any(path.lower().endswith(model_files.SAFE_WEIGHTS) for path in taken):
        pickles = {path for path in taken if model_files.is_pickle_name(path, taken)}
        left_out += [LeftOut(path, Reason.PICKLE) for path in sorted(pickles)]
        taken = [path for path in taken if path not in pickles]
    check_paths(taken)
    if why := model_files.refusal(taken, allow_pickle=allow_pickle):
        raise ModelRejectedError(why)
    if file is not None:
        check_named_model(file, taken)
    return taken, left_out
