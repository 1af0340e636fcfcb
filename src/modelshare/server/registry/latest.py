"""Which version is the latest. Pure.

By itself `latest` only moves upwards: to a release that is higher. A pre-release is the latest only as long as there is
no release, or because somebody said so. The order in which versions become ready decides nothing.
"""

import uuid
from collections.abc import Iterable
from typing import Protocol, TypeVar

from modelshare.wire.semver import is_release, precedence


class Pushed(Protocol):
    """A version, as far as it matters here."""

    @property
    def id(self) -> uuid.UUID:
        """Sorts by when it was pushed."""

    @property
    def version(self) -> str: ...

    @property
    def make_latest(self) -> bool | None:
        """What its push asked for, or True since somebody made it the latest; None: nothing was asked for."""


AnyVersion = TypeVar("AnyVersion", bound=Pushed)


def why_not_latest(new: Pushed, latest: Pushed | None) -> str | None:
    """Why a version that is ready does not take over from the latest one, as a sentence; None where it does."""
    if new.make_latest is False:
        why = "because the push asked for that"
    elif latest is None or _takes_over(new, latest):
        return None
    elif latest.make_latest and latest.id > new.id:
        why = "which was pushed later and made the latest"
    elif is_release(new.version) or precedence(new.version) < precedence(latest.version):
        why = f"because {new.version} is not higher"
    else:
        why = f"because {new.version} is a pre-release"
    stays = f"`latest` stays at {latest.version}" if latest else "No version is the latest"
    return f"{stays}, {why}. Promote {new.version} to make it the latest."


def next_latest(failed: str, ready: Iterable[AnyVersion]) -> AnyVersion | None:
    """Which of the ready versions takes the place of the latest one when that fails: the highest below it, else the
    highest; releases before pre-releases."""
    below = precedence(failed)

    def rank(each: AnyVersion) -> tuple[object, ...]:
        return precedence(each.version) < below, is_release(each.version), precedence(each.version), each.id

    return max(ready, key=rank, default=None)


def _takes_over(new: Pushed, latest: Pushed) -> bool:
    was_pushed_later = latest.id > new.id
    if was_pushed_later and latest.make_latest:
        return False
    if new.make_latest:
        return not (was_pushed_later and _is_above(latest, new))
    return _is_above(new, latest)


def _is_above(new: Pushed, latest: Pushed) -> bool:
    """Whether `latest` moves by itself to `new`."""
    is_higher = precedence(new.version) > precedence(latest.version)
    if latest.make_latest:  # somebody chose it, so it moves upwards only, to a release
        return is_higher and is_release(new.version)
    if is_release(new.version) != is_release(latest.version):
        return is_release(new.version)
    return is_higher
