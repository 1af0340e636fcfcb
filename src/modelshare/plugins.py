"""Plug-ins: entry points registered by installed distributions, including our own. See docs/plugins.md."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

_OURS: Final = "modelshare"


class PluginError(Exception):
    """A plug-in cannot be loaded; the message names its distribution and says what to do."""


@cache
def find(group: str) -> Mapping[str, EntryPoint]:
    """The group's plug-ins by name. Our own have precedence over others with the same name."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=group), key=_precedence):
        found.setdefault(entry.name, entry)
    return found


def load(entry: EntryPoint) -> Any:
    """Loads the entry point's object. Raises PluginError for any error in its modules."""
    distribution = _distribution(entry)
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        needs = f"`{entry.name}` of {distribution} needs the module {error.name}"
        raise PluginError(f"The plug-in {needs}: {_how_to_install(distribution, entry.extras)}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(unusable(entry, f"{type(error).__name__}: {error}")) from error


def unusable(entry: EntryPoint, why: str) -> str:
    """A message for a plug-in that cannot be used."""
    distribution = _distribution(entry)
    return (
        f"The plug-in `{entry.name}` of {distribution} cannot be used ({why}): update {distribution}, or uninstall it."
    )


def _precedence(entry: EntryPoint) -> tuple[bool, str]:
    distribution = _distribution(entry)
    return distribution != _OURS, distribution


def _how_to_install(distribution: str, extras: Sequence[str]) -> str:
    """Our own package is not named to pip: on a public index, anybody may have taken its name."""
    if distribution != _OURS:
        chosen = f"[{','.join(extras)}]" if extras else ""
        return f"pip install '{distribution}{chosen}'."
    if list(extras) == ["agent"]:
        return "run your platform's installer again: curl -fsSL https://YOUR-PLATFORM/install.sh | sh -s -- --agent"
    return f"install modelshare from its source, with the extra {' and '.join(extras) or 'that has it'}."


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown distribution"
