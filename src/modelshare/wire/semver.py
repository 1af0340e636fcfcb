"""Semantic versions (https://semver.org, 2.0.0): what is one, and which of two is higher."""

import re
from typing import Annotated, Final, NamedTuple

from pydantic import Field

_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_LABEL: Final = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
SEMVER_PATTERN: Final = (
    rf"^({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_LABEL}(?:\.{_LABEL})*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$(?!\n)"
)
"""The pattern that semver.org gives, with ASCII digits only. `$` alone would let a line break at the end pass."""
MAX_VERSION: Final = 64
"""Characters."""
SemVer = Annotated[str, Field(pattern=SEMVER_PATTERN, max_length=MAX_VERSION)]

_parts: Final = re.compile(SEMVER_PATTERN)


class Precedence(NamedTuple):
    """Orders versions as section 11 says: build metadata counts for nothing."""

    core: tuple[int, int, int]
    is_release: bool
    labels: tuple[tuple[bool, int, str], ...] = ()
    """Numeric labels sort by number and before the others, which sort as ASCII text."""


_LOWEST: Final = Precedence((-1, 0, 0), is_release=False)


def precedence(version: str) -> Precedence:
    """Compare two of them to learn which version is higher. Below all others: text that is no semantic version."""
    found = _parts.match(version)
    if found is None:
        return _LOWEST
    major, minor, patch, labels, _ = found.groups()
    core = (int(major), int(minor), int(patch))
    return Precedence(core, labels is None, tuple(map(_label, labels.split("."))) if labels else ())


def is_release(version: str) -> bool:
    """False for a pre-release, such as 2.0.0-rc.1."""
    return precedence(version).is_release


def _label(text: str) -> tuple[bool, int, str]:
    return (False, int(text), "") if text.isdigit() else (True, 0, text)
