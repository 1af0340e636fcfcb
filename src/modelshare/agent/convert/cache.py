"""Converted weights, made once per verified source."""

import sys
from pathlib import Path
from typing import Final

from modelshare.agent.convert.rules import why_not
from modelshare.agent.convert.source import ConversionError, Source
from modelshare.agent.engines.base import EngineError
from modelshare.agent.engines.child import Child

CONVERTER_VERSION: Final = 1
"""To be raised with every change of what the converter writes."""


def unconvertible(folder: Path) -> str | None:
    """Why the model cannot be converted, in a sentence; None when it can. Reads JSON files only."""
    try:
        return why_not(Source.read(folder))
    except ConversionError as error:
        return str(error)


def converted_file(cache: Path, weight_type: str) -> Path:
    """Where the converted weights are, or will be."""
    return cache / f"converted-{CONVERTER_VERSION}-{weight_type}.gguf"


async def to_gguf(folder: Path, cache: Path, weight_type: str, state_dir: Path) -> Path:
    """The model in `folder` as a GGUF file, from `cache` when it is there. Raises EngineError.

    `cache` belongs to the verified content of `folder`, and to one conversion at a time. The work is done by a child,
    since it takes memory and a core for a while; cancelling ends it and leaves nothing half done.
    """
    target = converted_file(cache, weight_type)
    if target.exists():
        return target
    command = (sys.executable, "-P", "-m", "modelshare.agent.convert", str(folder), str(target), "--type", weight_type)
    child = await Child.spawn(command, {}, state_dir)
    try:
        returncode = await child.exited()
    finally:
        await child.destroy(0.0)
        target.with_name(target.name + ".part").unlink(missing_ok=True)
    if returncode:
        said = child.log[-1] if child.log else f"exit code {returncode}"
        raise EngineError(f"The weights cannot be converted to GGUF: {said}")
    return target
