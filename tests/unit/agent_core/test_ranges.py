"""Answers to ranged requests come from other tenants' machines and buckets: whatever they say, the reader goes on."""

import json

import pytest

from modelshare.transfer.ranges import OwnerAwayError, UnusableAnswerError, check_owner, position

AWAY = json.dumps({"error": {"message": "Away.", "type": "server_error", "code": "owner_away", "param": None}}).encode()


@pytest.mark.parametrize(
    ("seconds", "wait"), [("5", 5), ("0", 1), ("-inf", 1), ("nan", 1), ("inf", 60), ("1" * 5000, 60)]
)
def test_an_owner_who_is_away_is_waited_for_a_minute_at_most(seconds: str, wait: float) -> None:
    with pytest.raises(OwnerAwayError) as away:
        check_owner({"Retry-After": seconds}, AWAY)
    assert away.value.retry_after == wait


@pytest.mark.parametrize("field", ["0-{}/*", "{}-9/*", "0-9/{}"], ids=["end", "start", "size"])
def test_a_number_that_is_too_long_is_an_unusable_answer(field: str) -> None:
    with pytest.raises(UnusableAnswerError, match="invalid Content-Range"):
        position(206, {"Content-Range": f"bytes {field.format('9' * 5000)}"}, 0, 10, 10)
