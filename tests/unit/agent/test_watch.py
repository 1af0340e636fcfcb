"""When an engine counts as hung."""

import pytest

from modelshare.agent.engines import base, watch
from modelshare.agent.engines.base import Activity, Load
from modelshare.agent.engines.watch import Timing, Watch

pytestmark = pytest.mark.anyio

LOOK = 5
"""Seconds from one look to the next."""


class Plodding:
    """An engine each of whose steps takes `step` seconds, until the one that never ends."""

    def __init__(self, time: list[float], *, step: int, steps: int) -> None:
        self.activity = Activity(shows_work=True)
        self._time = time
        self._step = step
        self._stuck_at = time[0] + step * steps

    async def health(self) -> bool:
        self._time[0] += LOOK
        return True

    async def load(self) -> Load | None:
        return None

    async def work(self) -> float:
        return min(self._time[0], self._stuck_at) // self._step

    async def answers(self, _: float) -> bool:
        return False


async def test_an_engine_whose_steps_take_minutes_is_left_alone_until_it_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = [1000.0]
    for module in (base, watch):
        monkeypatch.setattr(module, "monotonic", lambda: time[0])
    engine = Plodding(time, step=100, steps=60)
    with engine.activity.request(), engine.activity.asking(1_000_000):
        await Watch(engine, Timing(watch=0, recent=0), engine.answers).until_hung(probes=True)
    assert 7000 + 900 < time[0] < 7000 + 1100
