"""Caches converted weights, one file per verified source."""

import asyncio
import hashlib
import logging
import signal
import sys
from pathlib import Path
from typing import Final

from modelshare import private_files
from modelshare.agent.convert.headers import open_weights
from modelshare.agent.convert.numbers import read_numbers
from modelshare.agent.convert.rules import why_not
from modelshare.agent.convert.source import TensorSource
from modelshare.agent.convert.tensors import matched_tensors
from modelshare.agent.convert.values import ConversionError
from modelshare.agent.engines.base import EngineError, OutOfMemoryError, Task
from modelshare.agent.engines.child import Child

_log = logging.getLogger(__name__)

CONVERTER_VERSION: Final = 2
"""Increase it with every change of the converter's output."""
REASON_PRINTED: Final = 3
"""The child's exit code if its last line is a human-readable reason."""
_UNEXPECTED: Final = "its files are not what the converter to GGUF expects; see the agent's log for details."


def unconvertible(folder: Path, task: Task) -> str | None:
    """Why the model cannot be converted, as a sentence. None if it can.

    Reads only JSON files and headers of weights.
    """
    try:
        source = TensorSource.read(folder)
        if reason := why_not(source):
            return reason
        if task is Task.EMBEDDING and source.embedder is None and not source.is_bert:
            return "it does not define its pooling; save it with sentence-transformers."
        matched_tensors(source, read_numbers(source), open_weights(source.folder))
    except ConversionError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - logged; the files are untrusted, and tenants get a generic sentence
        _log.exception("Cannot determine whether the model can be converted to GGUF.")
        return _UNEXPECTED
    return None


def converted_file(cache: Path, weight_type: str) -> Path:
    """The path at which the converted weights are or will be stored."""
    return cache / f"converted-{CONVERTER_VERSION}-{weight_type}.gguf"


async def to_gguf(folder: Path, cache: Path, weight_type: str, state_dir: Path) -> Path:
    """The model in `folder` as a GGUF file, from `cache` if it exists there undamaged. Raises EngineError.

    `cache` must belong to the verified contents of `folder`, and be used by one conversion at a time. A child process
    does the work, since it uses much memory and CPU; cancelling kills it and deletes partial output.
    """
    target = converted_file(cache, weight_type)
    if target.exists():
        if await asyncio.to_thread(_is_intact, target):
            return target
        _log.warning("The converted weights were damaged on the disk; converting them again.")
        target.unlink()
    command = (sys.executable, "-P", "-m", "modelshare.agent.convert", str(folder), str(target), "--type", weight_type)
    child = await Child.spawn(command, {}, state_dir)
    try:
        returncode = await child.exited()
    finally:
        await child.destroy(0.0)
        target.with_name(target.name + ".part").unlink(missing_ok=True)
    if returncode in {-signal.SIGKILL, 128 + signal.SIGKILL}:
        raise OutOfMemoryError("The system killed the conversion to GGUF, most likely because memory ran out.")
    if returncode == REASON_PRINTED and child.log:
        raise EngineError(f"The weights cannot be converted to GGUF: {child.log[-1]}")
    if returncode:
        _log.error("The conversion to GGUF failed with exit code %d:\n%s", returncode, "\n".join(child.log))
        raise EngineError("The weights cannot be converted to GGUF; see the agent's log for details.")
    await asyncio.to_thread(_record_digest, target)
    return target


def _is_intact(target: Path) -> bool:
    record = _record_of(target)
    return record.exists() and record.read_text() == _digest(target)


def _record_digest(target: Path) -> None:
    private_files.replace(_record_of(target), _digest(target).encode())


def _record_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _digest(target: Path) -> str:
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
