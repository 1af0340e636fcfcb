"""Finds the processes of an engine, even after the agent was killed.

Every engine has its own session, so that all its processes can be found by the session's id, even if the first one is
gone: killing vLLM's front end leaves a worker that holds the GPU (vllm-project/vllm#55510).
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import psutil

from modelshare import private_files

_CLOCK_SECONDS: Final = 1.0
"""Tolerance for start times, which are derived from a clock that may be adjusted."""
_KILL_SECONDS: Final = 10.0


class EngineRecord(msgspec.Struct, frozen=True):
    """An engine's first process."""

    pid: int
    started: float
    """Unix seconds."""

    @classmethod
    def of(cls, pid: int) -> "EngineRecord":
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:  # it exited immediately
            return cls(pid, time.time())

    def save(self, state_dir: Path) -> Path:
        """Stores the record until the file is deleted."""
        folder = _folder(state_dir)
        private_files.folder(folder)
        path = folder / f"{secrets.token_hex(8)}.json"
        private_files.replace(path, msgspec.json.encode(self))
        return path

    def members(self) -> list[psutil.Process]:
        """All living processes of the engine."""
        if self._is_reused():
            return []
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
                if os.getsid(pid) == self.pid and self._is_alive(process := psutil.Process(pid)):
                    found.append(process)
        return found

    def _is_reused(self) -> bool:
        """Whether the process id belongs to another process now.

        It is not reused while a member of the session lives.
        """
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > _CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return False

    def _is_alive(self, process: psutil.Process) -> bool:
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() >= self.started - _CLOCK_SECONDS


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def reap_leftovers(state_dir: Path) -> int:
    """Kills processes left behind by an earlier run of the agent; returns their number.

    Call it before the first engine is started. Blocks for up to ten seconds per engine.
    """
    reaped = 0
    for path in _folder(state_dir).glob("*.json"):
        with contextlib.suppress(msgspec.DecodeError):
            members = msgspec.json.decode(path.read_bytes(), type=EngineRecord).members()
            kill(members)
            psutil.wait_procs(members, timeout=_KILL_SECONDS)
            reaped += len(members)
        path.unlink()
    return reaped


def _folder(state_dir: Path) -> Path:
    return state_dir / "engines"
