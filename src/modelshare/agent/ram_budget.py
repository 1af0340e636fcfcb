"""The machine's main memory, as far as the weights of engines lie in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from modelshare.agent.errors import NoMemoryError


class RamBudget:
    """What engines that run take of it. Weights that are mapped are never refused by the system, so it is done here."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0

    @contextmanager
    def room_for(self, weights: int) -> Iterator[None]:
        """While an engine lives. Raises NoMemory when its weights would push out those of one that lives already.

        The first engine is always let in: alone, a model that is too large may still be served, if slowly.
        """
        if weights and self._taken and self._taken + weights > self._total:
            raise NoMemoryError(needed=weights, taken=self._taken, total=self._total)
        self._taken += weights
        try:
            yield
        finally:
            self._taken -= weights
