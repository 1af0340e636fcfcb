"""The operator's settings for `--engine ray`: a TOML file, described in docs/ray.md."""

import math
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from modelshare.wire.units import size

_GIB: Final = 1 << 30
_MAX_CPUS: Final = 8
_Count = Annotated[int, Meta(ge=1, le=1000)]


class Replicas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Between which bounds Serve scales, and by what."""

    min: _Count = 1
    max: _Count = 1
    target_requests: Annotated[float, Meta(gt=0, le=10_000)] | None = None
    """Requests in progress per replica, on average, that Serve aims at; None: half of what a replica does at once."""
    up_after_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """How long there have to be more before a replica is added."""
    down_after_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 600.0
    """How long there have to be less before one is removed."""

    def __post_init__(self) -> None:
        if self.max < self.min:
            raise ValueError("`max` is smaller than `min`")


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one replica takes of its node. None: derived from the size of the weights."""

    cpus: Annotated[float, Meta(gt=0, le=1024)] | None = None
    gpus: Annotated[float, Meta(ge=0, le=64)] | None = None
    memory_gib: Annotated[float, Meta(gt=0, le=100_000)] | None = None


_PORT: Final = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"


class Resources(msgspec.Struct, frozen=True):
    """What Ray reserves for one replica, on one node."""

    cpus: float
    gpus: float
    memory: int
    """Bytes; 0 reserves none."""

    @property
    def by_ray_name(self) -> dict[str, float]:
        """Those above 0, under the names that Ray has for them."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: count for name, count in named.items() if count}


class RaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: Annotated[str, Meta(pattern=rf"^(auto|[\w.-]+:{_PORT})$")] = "auto"
    """The cluster's address, `HOST:PORT`; `auto`: the cluster that runs on this machine."""
    ingress: Annotated[str, Meta(pattern=rf"^https?://[\w.-]+:{_PORT}$")] = "http://127.0.0.1:8000"
    """Where Serve's HTTP proxy is reached from here."""
    cache: Annotated[str, Meta(min_length=1)] = "~/.modelshare-ray"
    """The folder of each node for the weights; on a node with MODELSHARE_RAY_CACHE, that one."""
    engine: Annotated[str, Meta(pattern=r"^[a-z][\w-]*$")] = "llamacpp"
    """What a replica runs."""
    placement_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 60.0
    """How long to wait for a node with room. Longer, if an autoscaler has to start one."""
    replicas: Replicas = Replicas()
    needs: Needs = Needs()
    vllm: dict[str, Any] = {}
    """Further engine arguments, for `engine = "vllm"`."""

    @property
    def uses_ray_llm(self) -> bool:
        """Whether replicas are those of `ray.serve.llm`."""
        return self.engine == "vllm"

    def resources(self, weights_bytes: int) -> Resources:
        """What a replica needs for weights of this size.

        By default, memory for the weights, a quarter more for what is computed from them, and 1 GiB; a CPU per GiB of
        weights, at most 8, since each of them is read for every token. With a GPU the weights are in its memory.
        """
        needs = self.needs
        gpus = needs.gpus if needs.gpus is not None else float(self.uses_ray_llm)
        cpus = needs.cpus or (1 if gpus else min(_MAX_CPUS, max(1, math.ceil(weights_bytes / _GIB))))
        memory = needs.memory_gib * _GIB if needs.memory_gib else 0 if gpus else weights_bytes * 1.25 + _GIB
        return Resources(cpus, gpus, int(memory))


def read_settings(path: Path) -> RaySettings:
    """Raises ValueError with what is wrong."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=RaySettings)
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error


def in_words(resources: dict[str, float]) -> str:
    """Of Ray's resources those that replicas take: `4 CPUs, 1 GPU and 12.0 GB of memory`."""
    parts = [
        f"{resources.get(name, 0):g} {name}{'' if resources.get(name, 0) == 1 else 's'}"
        for name in ("CPU", "GPU")
        if name == "CPU" or resources.get(name)
    ]
    if memory := resources.get("memory"):
        parts.append(f"{size(int(memory))} of memory")
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
