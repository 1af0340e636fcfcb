import psutil


def children() -> set[int]:
    """All descendants of this process: engines, and others that tests share, such as a database."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def living(pids: set[int]) -> set[int]:
    """Those that are still running; zombies do not count."""
    return {pid for pid in pids if _is_alive(pid)}


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
