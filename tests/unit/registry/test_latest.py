"""Which version is the latest, whatever was pushed, in whatever order it became ready."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.registry.latest import latest_after, next_latest, why_not_latest
from modelshare.wire.semver import is_release, precedence


@dataclass(frozen=True)
class Push:
    number: int
    version: str
    make_latest: bool | None = None

    @property
    def id(self) -> uuid.UUID:
        return uuid.UUID(int=self.number)


def latest_of(ready: Sequence[Push]) -> Push | None:
    """The latest after these became ready, in this order."""
    latest: Push | None = None
    for n, each in enumerate(ready):
        before = ready[:n]
        after = latest_after(each, latest, before)
        assert (why_not_latest(each, latest, before) is None) == (after is each)
        latest = after
    return latest


def why_not(new: Push, latest: Push | None) -> str | None:
    """Where no other version is ready."""
    return why_not_latest(new, latest, [latest] if latest else [])


@pytest.mark.parametrize(
    ("latest", "pushed", "words"),
    [
        (
            "1.10.0",
            "1.2.0",
            "`latest` stays at 1.10.0, because 1.2.0 is not higher. Promote 1.2.0 to make it the latest.",
        ),
        ("1.0.0", "1.0.0+b", "because 1.0.0+b is not higher"),
        ("1.0.0", "2.0.0-rc.1", "`latest` stays at 1.0.0, because 2.0.0-rc.1 is a pre-release."),
        ("1.0.0", "1.0.0-rc.1", "because 1.0.0-rc.1 is not higher"),
        ("2.0.0", "2.0.0-rc.1", "because 2.0.0-rc.1 is not higher"),
        ("1.2.0", "1.10.0", None),
        ("1.0.0-rc.1", "1.0.0", None),
        ("2.0.0-rc.1", "1.0.0", None),
        ("1.0.0-rc.1", "1.0.0-rc.2", None),
    ],
)
def test_by_itself_it_moves_upwards(latest: str, pushed: str, words: str | None) -> None:
    why = why_not(Push(2, pushed), Push(1, latest))
    assert (why is None) == (words is None)
    assert (words or "") in (why or "")


def test_the_first_is_the_latest_whatever_it_is() -> None:
    assert why_not(Push(1, "0.1.0-alpha"), None) is None
    assert why_not(Push(1, "1.0.0", make_latest=False), None) is not None


def test_what_somebody_chose_moves_upwards_only_to_a_release() -> None:
    chosen = Push(1, "2.0.0-rc.1", make_latest=True)
    assert why_not(Push(2, "1.5.0"), chosen) is not None
    assert why_not(Push(2, "2.0.0-rc.2"), chosen) is not None
    assert why_not(Push(2, "2.0.0"), chosen) is None


def test_a_push_that_asks_for_it_gets_it_and_one_that_does_not_want_it_never() -> None:
    latest = Push(1, "2.0.0")
    assert why_not(Push(2, "1.0.0", make_latest=True), latest) is None
    assert "because the push requested it" in (why_not(Push(2, "3.0.0", make_latest=False), latest) or "")


def test_a_later_choice_stands_whatever_becomes_ready_first() -> None:
    early, late = Push(1, "1.5.0"), Push(2, "1.2.0", make_latest=True)
    assert latest_of([early, late]) == latest_of([late, early]) == late
    asked, higher = Push(1, "1.2.0", make_latest=True), Push(2, "1.5.0")
    assert latest_of([asked, higher]) == latest_of([higher, asked]) == higher
    asked, lower = Push(1, "1.5.0", make_latest=True), Push(2, "1.2.0")
    assert latest_of([asked, lower]) == latest_of([lower, asked]) == asked


def test_versions_that_were_pushed_later_have_their_turn_again() -> None:
    high, asked, later = Push(1, "3.0.0"), Push(2, "1.0.0", make_latest=True), Push(3, "2.0.0")
    for ready in permutations([high, asked, later]):
        assert latest_of(ready) == later
    why = why_not_latest(asked, high, [high, later])
    assert why == "`latest` stays at 2.0.0, because 1.0.0 is not higher. Promote 1.0.0 to make it the latest."


def test_a_later_wish_is_told_where_another_version_is_the_latest_by_now() -> None:
    early, asked, later = Push(1, "9.0.0"), Push(2, "1.0.0", make_latest=True), Push(3, "2.0.0")
    why = why_not_latest(early, later, [asked, later])
    assert why is not None
    assert why.startswith("`latest` stays at 2.0.0, because 1.0.0 was pushed later and made the latest.")


def _in_any_order(versions: list[str]) -> st.SearchStrategy[list[Push]]:
    return st.permutations([Push(number, version) for number, version in enumerate(versions)])


LABELS = st.sampled_from(["", "", "-0", "-alpha", "-rc.1", "-rc.2", "-rc.10", "+build"])
VERSIONS = st.builds(lambda a, b, c, label: f"{a}.{b}.{c}{label}", *[st.integers(0, 11)] * 3, LABELS)


@given(st.lists(VERSIONS, min_size=1, max_size=6, unique_by=precedence).flatmap(_in_any_order))
def test_the_order_in_which_pushes_become_ready_decides_nothing(ready: list[Push]) -> None:
    pushes = sorted(ready, key=lambda each: each.number)
    found = latest_of(ready)
    assert found == max(pushes, key=lambda each: (is_release(each.version), precedence(each.version)))


WISHES = st.sampled_from([None, None, True, False])


@given(st.lists(st.tuples(VERSIONS, WISHES), max_size=6, unique_by=lambda push: push[0]), st.data())
def test_whatever_pushes_ask_for_their_order_decides_and_not_that_of_their_becoming_ready(
    asked: list[tuple[str, bool | None]], data: st.DataObject
) -> None:
    pushes = [Push(number, version, spec) for number, (version, spec) in enumerate(asked)]
    ready = data.draw(st.permutations(pushes))
    assert latest_of(ready) == latest_of(pushes)


@given(st.lists(st.tuples(VERSIONS, WISHES), min_size=1, max_size=6, unique_by=lambda push: push[0]))
def test_of_pushes_one_after_the_other_each_takes_over_or_not(asked: list[tuple[str, bool | None]]) -> None:
    latest: Push | None = None
    for number, (version, spec) in enumerate(asked):
        new = Push(number, version, spec)
        if spec is not False and (spec or latest is None or moves_upwards(latest, new)):
            latest = new
    assert latest_of([Push(number, *each) for number, each in enumerate(asked)]) == latest


def moves_upwards(latest: Push, new: Push) -> bool:
    if latest.make_latest or is_release(latest.version):
        return is_release(new.version) and precedence(new.version) > precedence(latest.version)
    return is_release(new.version) or precedence(new.version) > precedence(latest.version)


def test_what_was_pushed_not_to_be_the_latest_takes_its_place_last() -> None:
    wanted, unwanted = Push(1, "1.0.0"), Push(2, "2.0.0", make_latest=False)
    assert next_latest("3.0.0", [wanted, unwanted]) == wanted
    assert next_latest("0.1.0", [wanted, unwanted]) == wanted
    assert next_latest("3.0.0", [unwanted]) == unwanted


@given(VERSIONS, st.lists(VERSIONS, max_size=6, unique=True))
def test_what_takes_the_place_of_one_that_fails(failed: str, versions: list[str]) -> None:
    ready = [Push(number, version) for number, version in enumerate(versions)]
    found = next_latest(failed, ready)
    assert (found is None) == (not ready)
    below = [each for each in ready if precedence(each.version) < precedence(failed)]
    if found is not None and below:
        releases = [each for each in below if is_release(each.version)]
        highest = max(precedence(each.version) for each in (releases or below))
        assert precedence(found.version) == highest
