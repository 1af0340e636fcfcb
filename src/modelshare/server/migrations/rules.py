"""Whether a process fits a database's schema. Pure."""

from enum import StrEnum
from typing import NamedTuple


class Schema(NamedTuple):
    """What a database says about its schema."""

    revision: str | None
    """None: it is empty."""
    oldest_compatible: str | None
    """The oldest revision whose processes may use it, where its last upgrade said so."""


class Fit(StrEnum):
    """How a schema relates to the revision that a process was written for."""

    EMPTY = "empty"
    CURRENT = "current"
    OLDER = "older"
    """The process has to upgrade it first."""
    NEWER = "newer"
    """It was upgraded by a newer version, and still works with the process."""
    TOO_NEW = "too_new"


def fit_of(schema: Schema, head: str) -> Fit:
    """`head`: the revision that the process was written for."""
    revision, oldest = schema
    if revision is None:
        return Fit.EMPTY
    if revision == head:
        return Fit.CURRENT
    if revision < head:
        return Fit.OLDER
    return Fit.NEWER if oldest is not None and oldest <= head else Fit.TOO_NEW
