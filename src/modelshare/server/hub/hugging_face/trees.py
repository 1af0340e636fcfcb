"""The effect of commits on the files of a branch, and whether they complete a version. Pure."""

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
    """The git object ID of a small file, if it is known."""

    def is_same(self, other: "Entry") -> bool:
        return (self.sha256, self.size) == (other.sha256, other.size)


Tree: TypeAlias = Mapping[str, Entry]
"""By path."""


@dataclass(frozen=True, slots=True)
class Change:
    """One operation of a commit: adds a file, or (without an entry) deletes a file or folder."""

    path: str
    entry: Entry | None = None
    is_folder: bool = False


def apply(tree: Tree, changes: Iterable[Change]) -> dict[str, Entry]:
    """The tree after a commit. Files that it does not name stay."""
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
    """The commit ID of a tree without a manifest."""
    files = [[path, entry.sha256, entry.size] for path, entry in sorted(tree.items())]
    return hashlib.sha256(json.dumps([branch, files]).encode()).hexdigest()[:40]


def still_to_come(announced: Mapping[str, int], committed: Collection[str], before: Tree) -> dict[str, int]:
    """Files that the client has announced and will probably still commit.

    A client announces all files of an upload, 256 at a time, and commits them in other portions. Files announced before
    the first one of this commit belong to an upload that was broken off. Files that existed before may be unchanged and
    never be committed, so they do not count.
    """
    began = min((announced[path] for path in committed if path in announced), default=None)
    if began is None:
        return {}
    return {path: at for path, at in announced.items() if at >= began and path not in committed and path not in before}


def why_not_complete(tree: Tree) -> str | None:
    """What a model is missing by the names of its files; None if it is complete."""
    return model_files.incomplete(tree.keys())
