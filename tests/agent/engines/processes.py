import contextlib
import os

import psutil


def in_session(leader: int) -> set[int]:
    """The living processes of the session that this one began, as an engine's first process does."""
    return living({pid for pid in psutil.pids() if _session(pid) == leader})


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def living(pids: set[int]) -> set[int]:
    """Those that are still running; zombies do not count."""
    return {pid for pid in pids if _is_alive(pid)}


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
