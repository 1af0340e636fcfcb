"""Which version is the latest. Pure.

By itself `latest` only moves upwards: to a release that is higher. A pre-release is the latest only as long as there is
no release, or because somebody said so. The order in which versions become ready decides nothing: what comes of several
pushes is what would come of them one after the other.
"""

import uuid
from collections.abc import Collection, Iterable
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


def latest_after(new: AnyVersion, latest: AnyVersion | None, ready: Collection[AnyVersion]) -> AnyVersion | None:
    """Which version is the latest once `new` is ready. `latest`: until then. `ready`: all others that are ready."""
    if new.make_latest is False or _chosen_later(new, ready):
        return latest
    if not new.make_latest:
        return new if latest is None or _is_above(new, latest) else latest
    found = new
    for each in sorted(ready, key=lambda version: version.id):
        if each.id > new.id and each.make_latest is None and _is_above(each, found):
            found = each
    return found


def why_not_latest(new: AnyVersion, latest: AnyVersion | None, ready: Collection[AnyVersion]) -> str | None:
    """Why a version does not become the latest as it becomes ready, as a sentence; None where it does."""
    after = latest_after(new, latest, ready)
    if after is new:
        return None
    if new.make_latest is False:
        why = "because the push requested it"
    elif (chosen := _chosen_later(new, ready)) is not None:
        why = f"because {chosen.version} was pushed later and made the latest"
    elif after is None or is_release(new.version) or precedence(new.version) < precedence(after.version):
        why = f"because {new.version} is not higher"
    else:
        why = f"because {new.version} is a pre-release"
    stays = f"`latest` stays at {after.version}" if after else "No version is the latest"
    return f"{stays}, {why}. Promote {new.version} to make it the latest."


def next_latest(failed: str, ready: Iterable[AnyVersion]) -> AnyVersion | None:
    """Which of the ready versions takes the place of the latest one when that fails: the highest below it, else the
    highest; releases before pre-releases. One that was pushed not to be the latest only where there is no other."""
    below = precedence(failed)

    def rank(each: AnyVersion) -> tuple[object, ...]:
        may_be = each.make_latest is not False
        is_below = precedence(each.version) < below
        return may_be, is_below, is_release(each.version), precedence(each.version), each.id

    return max(ready, key=rank, default=None)


def _chosen_later(new: AnyVersion, ready: Iterable[AnyVersion]) -> AnyVersion | None:
    """The last one that was pushed after `new` and said to be the latest."""
    chosen = [each for each in ready if each.make_latest and each.id > new.id]
    return max(chosen, key=lambda version: version.id, default=None)


def _is_above(new: Pushed, latest: Pushed) -> bool:
    """Whether `latest` moves by itself to `new`."""
    if latest.make_latest:  # somebody chose it, so it moves upwards only, to a release
        return _is_higher(new, latest) and is_release(new.version)
    if is_release(new.version) != is_release(latest.version):
        return is_release(new.version)
    return _is_higher(new, latest)


def _is_higher(one: Pushed, other: Pushed) -> bool:
    """Of two that differ in their build metadata at most, the one that was pushed first."""
    first, second = precedence(one.version), precedence(other.version)
    return first > second or (first == second and one.id < other.id)
