"""From what the server wants and what is held here to what is to be done. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from modelshare.wire.link import DesiredDeployment


@dataclass(frozen=True, slots=True)
class Changes:
    """Disjoint; a deployment in none of them stays as it is."""

    start: tuple[DesiredDeployment, ...] = ()
    """Not held by a running supervisor yet, whether or not an earlier run left its files."""
    restart: tuple[DesiredDeployment, ...] = ()
    """Held, but as another thing than what is wanted now."""
    update: tuple[DesiredDeployment, ...] = ()
    """Held and as wanted, but for facts that need no other engine: its public name, its concurrency, its signature."""
    release: tuple[str, ...] = ()
    """No longer wanted, here or left by an earlier run."""


def plan(
    running: Mapping[str, DesiredDeployment], left_over: Iterable[str], wanted: Iterable[DesiredDeployment]
) -> Changes:
    """What turns `running` (and what an earlier run left on the disk) into exactly `wanted`."""
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
