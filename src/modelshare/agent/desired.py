"""Compares the desired state with what is on this machine. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from modelshare.wire.link import DesiredDeployment


@dataclass(frozen=True, slots=True)
class Changes:
    """The lists are disjoint; deployments in none of them need no change."""

    start: tuple[DesiredDeployment, ...] = ()
    """Not running yet, whether or not an earlier run left its files."""
    restart: tuple[DesiredDeployment, ...] = ()
    """Running, but with other settings than desired."""
    update: tuple[DesiredDeployment, ...] = ()
    """Running as desired, except for facts that need no other engine: its public name, its concurrency, its signature.
    """
    release: tuple[str, ...] = ()
    """No longer desired; running, or left over from an earlier run."""


def plan(
    running: Mapping[str, DesiredDeployment], left_over: Iterable[str], wanted: Iterable[DesiredDeployment]
) -> Changes:
    """The changes that turn `running` (and what an earlier run left on disk) into exactly `wanted`."""
    target = {one.deployment_id: one for one in wanted}
    held = {deployment_id: running[deployment_id] for deployment_id in target if deployment_id in running}
    restart = {name for name, old in held.items() if not _same_engine(old, target[name])}
    return Changes(
        start=tuple(one for name, one in target.items() if name not in running),
        restart=tuple(target[name] for name in held if name in restart),
        update=tuple(target[name] for name, old in held.items() if name not in restart and old != target[name]),
        release=tuple(dict.fromkeys(name for name in (*running, *left_over) if name not in target)),
    )


def _same_engine(old: DesiredDeployment, new: DesiredDeployment) -> bool:
    """A signature that comes or goes changes no byte: it is looked at before the next load."""
    unchanged = {field: getattr(old, field) for field in ("served_name", "max_concurrent", "signature")}
    return old == msgspec.structs.replace(new, **unchanged)
