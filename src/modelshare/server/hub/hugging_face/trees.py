"""What commits do to the files of a branch, and whether a commit completes a version. Pure."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from modelshare.wire import model_files


@dataclass(frozen=True, slots=True)
class Entry:
    """The content of a file."""

    sha256: str
    size: int
    git_oid: str | None = None
    """Git's name of it, where it is small and the name is known."""

    def is_same(self, other: "Entry") -> bool:
        return (self.sha256, self.size) == (other.sha256, other.size)


Tree: TypeAlias = Mapping[str, Entry]
"""By path."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a commit: a file that is put there, or (no entry) a file or folder that is deleted."""

    path: str
    entry: Entry | None = None
    is_folder: bool = False


def apply(tree: Tree, changes: Iterable[Change]) -> dict[str, Entry]:
    """The tree after a commit: whatever it does not name stays as it is."""
    after = dict(tree)
    for change in changes:
        if change.entry is not None:
            after[change.path] = change.entry
        elif change.is_folder:
            below = f"{change.path.rstrip('/')}/"
            after = {path: entry for path, entry in after.items() if not path.startswith(below)}
        else:
            after.pop(change.path, None)
    return after


def same(one: Tree, other: Tree) -> bool:
    return one.keys() == other.keys() and all(entry.is_same(other[path]) for path, entry in one.items())


def to_json(tree: Tree) -> dict[str, Any]:
    return {path: [entry.sha256, entry.size, entry.git_oid] for path, entry in sorted(tree.items())}


def of_json(stored: Mapping[str, Any]) -> dict[str, Entry]:
    return {path: Entry(*entry) for path, entry in stored.items()}


def commit_of(branch: str, tree: Tree) -> str:
    """40 hex digits for a tree that has no manifest yet."""
    files = [[path, entry.sha256, entry.size] for path, entry in sorted(tree.items())]
    return hashlib.sha256(json.dumps([branch, files]).encode()).hexdigest()[:40]


def still_to_come(announced: Mapping[str, int], committed: Collection[str], before: Tree) -> dict[str, int]:
    """What a client said that it will commit and has not, with the files that it says so of once more left out.

    A client says so of all files of an upload, 256 at a time, and commits them in other portions. What was announced
    before the first of the files that it commits now belongs to an upload that was broken off. A file that was there
    before may turn out to be unchanged, and is then never committed: nobody waits for it.
    """
    began = min((announced[path] for path in committed if path in announced), default=None)
    if began is None:
        return {}
    return {path: at for path, at in announced.items() if at >= began and path not in committed and path not in before}


def why_not_complete(tree: Tree) -> str | None:
    """What a model that comes file by file still lacks, by the files' names."""
    return model_files.incomplete(tree.keys())
