"""Semantic versions (https://semver.org, 2.0.0): validation and ordering."""

import re
from typing import Annotated, Final, NamedTuple

from pydantic import Field

_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_LABEL: Final = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
SEMVER_PATTERN: Final = (
    rf"^({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_LABEL}(?:\.{_LABEL})*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?$(?!\n)"
)
"""The regular expression from semver.org, with ASCII digits only. `$` alone would accept a trailing line break."""
MAX_VERSION: Final = 64
"""Characters."""
SemVer = Annotated[str, Field(pattern=SEMVER_PATTERN, max_length=MAX_VERSION)]

_parts: Final = re.compile(SEMVER_PATTERN)


class Precedence(NamedTuple):
    """Sort key for versions (SemVer section 11). Build metadata is ignored."""

    core: tuple[int, int, int]
    is_release: bool
    labels: tuple[tuple[bool, int, str], ...] = ()
    """Numeric labels sort by number and before alphanumeric ones, which sort as ASCII text."""


_LOWEST: Final = Precedence((-1, 0, 0), is_release=False)


def precedence(version: str) -> Precedence:
    """Sort key for comparing versions. Text that is not a semantic version sorts below all versions."""
    found = _parts.match(version)
    if found is None:
        return _LOWEST
    major, minor, patch, labels, _ = found.groups()
    core = (int(major), int(minor), int(patch))
    return Precedence(core, labels is None, tuple(map(_label, labels.split("."))) if labels else ())


def is_version(text: str) -> bool:
    return _parts.match(text) is not None and len(text) <= MAX_VERSION


def is_release(version: str) -> bool:
    """False for a pre-release, such as 2.0.0-rc.1."""
    return precedence(version).is_release


def _label(text: str) -> tuple[bool, int, str]:
    return (False, int(text), "") if text.isdigit() else (True, 0, text)
