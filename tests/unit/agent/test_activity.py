"""How long an engine shows nothing of what it was asked for."""

import pytest

from modelshare.agent.engines import base
from modelshare.agent.engines.base import Activity


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(base, "monotonic", lambda: now[0])
    return now


def test_who_leaves_and_comes_again_does_not_break_a_silence(time: list[float]) -> None:
    activity = Activity()
    for _ in range(3):
        with activity.asking(0):
            time[0] += 30
        time[0] += 500
    assert activity.silence == 90
    with activity.asking(0):
        time[0] += 10
        activity.succeeded()
        time[0] += 1
        assert activity.silence == 1
    assert activity.silence == 1


def test_nobody_asks_and_nothing_is_missed(time: list[float]) -> None:
    activity = Activity()
    time[0] += 5000
    assert activity.silence == 0


def test_patience_is_for_what_was_asked_since_the_last_sign() -> None:
    activity = Activity()
    with activity.asking(5000):
        assert activity.patience == 100
        with activity.asking(1000, unstreamed_tokens=800):
            assert activity.patience == 100 + 20 + 100
        assert activity.patience == 220, "it may be the cause of the silence still"
        activity.succeeded()
        assert activity.patience == 100


def test_an_engine_that_counts_its_steps_needs_less() -> None:
    activity = Activity(shows_work=True)
    with activity.asking(1000, unstreamed_tokens=100_000):
        assert activity.patience == 20
