"""Decides which version is the latest. Pure.

Unless a user chooses a version, `latest` only moves to a higher release. A pre-release is the latest only while there
is no release, or if it was chosen. The order in which versions become ready does not matter: concurrent pushes have the
same result as the same pushes one after the other.
"""

import uuid
from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from modelshare.wire.semver import is_release, precedence


class Pushed(Protocol):
    """The attributes of a version that matter here."""

    @property
    def id(self) -> uuid.UUID:
        """Ordered by the time of the push."""

    @property
    def version(self) -> str: ...

    @property
    def make_latest(self) -> bool | None:
        """The option of its push, or True once it was promoted; None: decide by the version number."""


AnyVersion = TypeVar("AnyVersion", bound=Pushed)


def latest_after(new: AnyVersion, latest: AnyVersion | None, ready: Collection[AnyVersion]) -> AnyVersion | None:
    """The latest version once `new` is ready. `latest`: the latest until then. `ready`: the other ready versions."""
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
    """A sentence on why `new` does not become the latest when it becomes ready; None if it does."""
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
    """The ready version that replaces the latest one when that fails: preferably one not pushed with
    `make_latest=false`,
    below the failed one, a release, and the highest of these, in this order of importance.
    """
    below = precedence(failed)

    def rank(each: AnyVersion) -> tuple[object, ...]:
        is_allowed = each.make_latest is not False
        is_below = precedence(each.version) < below
        return is_allowed, is_below, is_release(each.version), precedence(each.version), each.id

    return max(ready, key=rank, default=None)


def _chosen_later(new: AnyVersion, ready: Iterable[AnyVersion]) -> AnyVersion | None:
    """The last version pushed after `new` and made the latest by a user."""
    chosen = [each for each in ready if each.make_latest and each.id > new.id]
    return max(chosen, key=lambda version: version.id, default=None)


def _is_above(new: Pushed, latest: Pushed) -> bool:
    """Whether `latest` moves to `new` automatically."""
    if latest.make_latest:  # chosen by a user, so only a higher release replaces it
        return _is_higher(new, latest) and is_release(new.version)
    if is_release(new.version) != is_release(latest.version):
        return is_release(new.version)
    return _is_higher(new, latest)


def _is_higher(one: Pushed, other: Pushed) -> bool:
    """Whether `one` has precedence over `other`; with equal precedence, the one pushed first."""
    first, second = precedence(one.version), precedence(other.version)
    return first > second or (first == second and one.id < other.id)
