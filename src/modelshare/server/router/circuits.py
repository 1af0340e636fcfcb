"""Circuit breakers: a deployment whose answers to a tenant fail one after the other gets none of its requests for a
while."""

from collections.abc import Callable
from typing import Final

from modelshare.wire.backoff import Backoff

FAILURES: Final = 3
"""Failures in a row after which a deployment is left out."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
_KEPT: Final = 10_000


class _Circuit:
    __slots__ = ("backoff", "failures", "has_trial", "retry_at")

    def __init__(self) -> None:
        self.failures = 0
        self.backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self.retry_at: float | None = None
        """When the pause ends; None if there is none."""
        self.has_trial = False
        """One request tries whether the deployment works again."""


class Circuits:
    """Those of the deployments that have failed lately, by tenant and deployment (`target_selection.circuit_of`)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def __len__(self) -> int:
        return len(self._circuits)

    def is_open(self, circuit_id: str) -> bool:
        """Whether it should get no request now."""
        circuit = self._circuits.get(circuit_id)
        if circuit is None or circuit.retry_at is None:
            return False
        return circuit.has_trial or self._clock() < circuit.retry_at

    def start(self, circuit_id: str) -> bool:
        """A request is sent. Returns whether it is the trial after a pause; its end must be told of."""
        circuit = self._circuits.get(circuit_id)
        if circuit is None or circuit.retry_at is None or self.is_open(circuit_id):
            return False
        circuit.has_trial = True
        return True

    def begin_answer(self, circuit_id: str) -> None:
        """The trial is being answered: others may follow, but the next failure starts another pause."""
        circuit = self._circuits.get(circuit_id)
        if circuit is not None:
            circuit.failures, circuit.retry_at, circuit.has_trial = FAILURES - 1, None, False

    def end(self, circuit_id: str, *, is_failure: bool | None, is_trial: bool) -> None:
        """A request has ended. `is_failure`: None if it shows nothing, as where the client has gone."""
        if is_failure is False:
            self._circuits.pop(circuit_id, None)
        elif is_failure:
            self._fail(circuit_id, is_trial=is_trial)
        elif is_trial and (circuit := self._circuits.get(circuit_id)) is not None:
            circuit.has_trial = False

    def _fail(self, circuit_id: str, *, is_trial: bool) -> None:
        circuit = self._circuits.get(circuit_id)
        if circuit is None:
            if len(self._circuits) >= _KEPT:
                del self._circuits[next(iter(self._circuits))]
            circuit = self._circuits[circuit_id] = _Circuit()
        if circuit.retry_at is not None and not is_trial:
            return  # it was sent before the pause
        circuit.failures += 1
        circuit.has_trial = False
        if circuit.failures >= FAILURES:
            circuit.retry_at = self._clock() + circuit.backoff.next()
