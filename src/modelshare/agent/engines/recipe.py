"""How to run one engine for one model, as plain data. Contains everything that differs between engines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelshare.agent.engines.base import EngineSpec, Route
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Added to the variables that engines inherit from the agent."""


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """Metric names in `/metrics`: gauges of requests, and counters that increase with every step of work, if any."""

    running: str
    waiting: str
    work: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipeFacts:
    """Where an engine reports what it can do with the loaded model."""

    path: str
    refined: Callable[[RelayPolicy, bytes], RelayPolicy]
    """Adapts the policy to the reported facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    spec: EngineSpec
    routes: frozenset[Route]
    relay: RelayPolicy
    sharing: Sharing
    command: Callable[[int, str], Command]
    """Returns the command for a port and a secret."""
    has_key: bool = True
    health_path: str = "/health"
    health_seconds: float = 5.0
    """Timeout of the health route."""
    metrics: LoadMetrics | None = None
    facts: RecipeFacts | None = None
    mapped_bytes: int = 0
    """See `Engine`."""
    start_seconds: float
    """Timeout until the first answer, for a model of this size."""
    stop_seconds: float = 15.0
    """Time between SIGTERM and SIGKILL."""


def start_seconds(size: int, *, base: float) -> float:
    """The start timeout for `size` bytes of weights, assuming at least 50 MB/s, which any suitable disk reaches."""
    return base + size / 50e6


def weights_size(spec: EngineSpec) -> int:
    """Total size in bytes of the weights that are opened."""
    return sum(path.stat().st_size for path in spec.weights or (spec.path,))
