"""How to run one engine for one model, as plain data: what differs between engines, and nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelshare.agent.engines.base import EngineSpec, Route
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Added to what engines get of the agent's own environment."""


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """Names in `/metrics`: the gauges that count requests, and counters that rise with every step of work, if any."""

    running: str
    waiting: str
    work: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipeFacts:
    """Where an engine tells what it can do with the model, once that is loaded."""

    path: str
    refined: Callable[[RelayPolicy, bytes], RelayPolicy]
    """The policy that goes by what it tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    spec: EngineSpec
    routes: frozenset[Route]
    relay: RelayPolicy
    sharing: Sharing
    command: Callable[[int, str], Command]
    """The command for a port and a secret."""
    has_key: bool = True
    health_path: str = "/health"
    health_seconds: float = 5.0
    """How long the health route may take."""
    metrics: LoadMetrics | None = None
    facts: RecipeFacts | None = None
    mapped_bytes: int = 0
    """See `Engine`."""
    start_seconds: float
    """Until the first answer, for this size of model."""
    stop_seconds: float = 15.0
    """From SIGTERM to SIGKILL."""


def start_seconds(size: int, *, base: float) -> float:
    """A deadline for `size` bytes of weights: 50 MB/s is slower than any disk that is fit for the job."""
    return base + size / 50e6


def weights_size(spec: EngineSpec) -> int:
    """Bytes of the weights that are opened."""
    return sum(path.stat().st_size for path in spec.weights or (spec.path,))
