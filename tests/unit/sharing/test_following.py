"""What `latest` means for an endpoint, whoever it belongs to and whatever became of the share."""

import uuid
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.sharing.rules import NEVER_SHOWN, LastShown, choosable, stays_at, version_wanted
from modelshare.wire.sharing import Audience


@dataclass(frozen=True)
class Ready:
    id: uuid.UUID
    version: str
    is_latest: bool


def ready(count: int, latest: int | None) -> list[Ready]:
    return [Ready(uuid.UUID(int=n), f"1.{n}.0", n == latest) for n in range(count)]


def shown(latest: int | None, *versions: int) -> LastShown:
    ids = frozenset(uuid.UUID(int=n) for n in versions)
    return LastShown(None if latest is None else uuid.UUID(int=latest), ids)


AUDIENCES = st.sampled_from([None, *Audience])
LAST = st.none() | st.builds(lambda n, more: shown(n, n, *more), st.integers(0, 4), st.sets(st.integers(0, 4)))


@given(st.booleans(), AUDIENCES, st.booleans(), LAST, LAST)
def test_who_sees_the_model_follows_and_nobody_else(
    is_owner: bool, audience: Audience | None, is_invited: bool, own: LastShown | None, everybody: LastShown | None
) -> None:
    stays = stays_at(is_owner=is_owner, audience=audience, is_invited=is_invited, own=own, everybody=everybody)
    sees = is_owner or audience is Audience.PUBLIC or (audience is Audience.TARGETED and is_invited)
    assert (stays is None) == sees
    if stays is not None:
        assert stays == (own or everybody or NEVER_SHOWN), "the project's own is the newer one"


@given(st.integers(0, 5), st.integers(0, 4), LAST, st.none() | st.integers(0, 5))
def test_an_endpoint_gets_only_what_was_shown(
    count: int, latest: int, last: LastShown | None, wanted: int | None
) -> None:
    versions = ready(count, latest)
    found = version_wanted(None if wanted is None else f"1.{wanted}.0", versions, last)
    assert found is None or found in choosable(versions, last)
    if last is None:
        assert choosable(versions, last) == versions
        expected = latest if wanted is None else wanted
        assert found == next((each for each in versions if each.id.int == expected), None)
    elif found is not None:
        assert found.id in last.versions
        assert wanted is not None or found.id == last.version_id


def test_what_comes_later_changes_nothing() -> None:
    last = shown(1, 0, 1)
    for latest in (0, 1, 3):
        found = version_wanted(None, ready(4, latest), last)
        assert found is not None
        assert found.version == "1.1.0"
    assert version_wanted("1.3.0", ready(4, 3), last) is None
    assert version_wanted("1.0.0", ready(4, 3), last) is not None
