"""`.gitignore` patterns (https://git-scm.com/docs/gitignore). Pure.

Not from a library, since the server matches patterns from untrusted clients: here the time is bounded by the length of
the pattern times the length of the path, whatever they contain. One rule differs from git's: as in Docker, a file can
be included again although an earlier pattern excludes its folder.
"""

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import AfterValidator, Field

MAX_PATTERNS: Final = 200
MAX_PATTERN: Final = 300
"""Maximum length in characters."""
MAX_DEPTHS: Final = 4
"""Maximum number of `**` in a pattern: each adds a position at which a match may continue."""
_ANY_DEPTH: Final = "**"


@dataclass(frozen=True, slots=True)
class Pattern:
    negated: bool
    folders_only: bool
    segments: tuple[str, ...]

    def fits(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether it matches the path or one of its parent folders."""
        names = path.split("/")
        at = self._without_passing({0})
        for number, name in enumerate(names, 1):
            at = self._after(at, name)
            if len(self.segments) in at and (number < len(names) or is_folder or not self.folders_only):
                return True
        return False

    def work(self, path: str) -> int:
        """Upper bound for the steps that `fits` takes for this path."""
        return (1 + 2 * self.segments.count(_ANY_DEPTH)) * (1 + path.count("/"))

    def _after(self, at: set[int], name: str) -> set[int]:
        """The possible positions in the pattern after matching one more path segment."""
        after = set[int]()
        for n in at:
            if n < len(self.segments):
                if self.segments[n] == _ANY_DEPTH:
                    after.add(n)
                elif _segment(self.segments[n]).match(name):
                    after.add(n + 1)
        return self._without_passing(after)

    def _without_passing(self, at: set[int]) -> set[int]:
        """Adds the positions after each `**` that matches zero folders."""
        for n in sorted(at):
            while n < len(self.segments) and self.segments[n] == _ANY_DEPTH:
                n += 1  # noqa: PLW2901 - the next position
                at.add(n)
        return at


def parse(line: str) -> Pattern | None:
    """Parses one line; returns None for an empty line or a comment."""
    text = _without_blanks_at_end(line.rstrip("\r\n"))
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text.removeprefix("!")
    folders_only = text.endswith("/")
    text = text.rstrip("/") if folders_only else text
    anchored = "/" in text
    parts = [part for part in text.split("/") if part]
    segments = [part for n, part in enumerate(parts) if part != _ANY_DEPTH or parts[n - 1 : n] != [_ANY_DEPTH]]
    if not segments:
        return None
    if not anchored:
        segments.insert(0, _ANY_DEPTH)
    if segments[-1] == _ANY_DEPTH:  # `folder/**` matches everything in the folder, at any depth
        segments[-1] = "*"
    return Pattern(negated, folders_only, tuple(segments))


def parse_all(lines: Iterable[str]) -> tuple[Pattern, ...]:
    return tuple(pattern for line in lines if (pattern := parse(line)) is not None)


def decision(patterns: Sequence[Pattern], path: str, *, is_folder: bool = False) -> bool | None:
    """Whether the last matching pattern excludes the path (True) or includes it again (False); None if none matches."""
    for pattern in reversed(patterns):
        if pattern.fits(path, is_folder=is_folder):
            return not pattern.negated
    return None


def is_bounded(pattern: Pattern) -> bool:
    """Whether it is short and simple enough to be matched against many paths."""
    is_short = sum(map(len, pattern.segments)) + len(pattern.segments) <= MAX_PATTERN + len(_ANY_DEPTH) + 1
    return is_short and pattern.segments.count(_ANY_DEPTH) <= MAX_DEPTHS


def _check_plain(text: str) -> str:
    pattern = parse(text)
    if pattern is None or text.startswith("!"):
        raise ValueError("use a pattern such as `*.log`, `logs/` or `/notes.txt`, one per item")
    if not is_bounded(pattern):
        raise ValueError(f"use `**` at most {MAX_DEPTHS} times in a pattern")
    return text


PlainPattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN), AfterValidator(_check_plain)]
"""One pattern without `!`."""


def _without_blanks_at_end(text: str) -> str:
    stripped = text.rstrip(" \t")
    escaped = (len(stripped) - len(stripped.rstrip("\\"))) % 2 == 1
    return stripped + text[len(stripped) : len(stripped) + 1] if escaped else stripped


@functools.lru_cache(1024)
def _segment(glob: str) -> re.Pattern[str]:
    # fnmatch uses atomic groups, so that no name causes catastrophic backtracking.
    return re.compile(fnmatch.translate(_as_fnmatch(glob)))


def _as_fnmatch(glob: str) -> str:
    """Translates gitignore syntax to fnmatch's:

    a backslash escape becomes a character class, `[^...]` becomes `[!...]`.
    """
    out, at = [], 0
    while at < len(glob):
        if glob[at] == "\\" and at + 1 < len(glob):
            at += 1
            out.append(f"[{glob[at]}]" if glob[at] in "*?[" else glob[at])
        elif glob.startswith("[^", at):
            at += 1
            out.append("[!")
        else:
            out.append(glob[at])
        at += 1
    return "".join(out)
