"""Limits the main memory used by the weights of all engines."""

from collections.abc import Iterator
from contextlib import contextmanager

from modelshare.agent.errors import NoMemoryError


class RamBudget:
    """Memory used by running engines. Checked here, since the system never refuses to map a file."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0

    @contextmanager
    def room_for(self, weights: int) -> Iterator[None]:
        """Reserves memory while an engine runs. Raises NoMemoryError if its weights would evict those of another one.

        The first engine is always allowed: alone, even a model that is too large may be served, if slowly.
        """
        if weights and self._taken and self._taken + weights > self._total:
            raise NoMemoryError(needed=weights, taken=self._taken, total=self._total)
        self._taken += weights
        try:
            yield
        finally:
            self._taken -= weights
