"""What this machine can run, as reported by the operating system."""

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from modelshare import __version__
from modelshare.wire.agents import Machine

_ROOT: Final = Path("/")


def capabilities(data_dir: Path, engines: Sequence[str]) -> Machine:
    """The current state of the machine; `engines` are the kinds that can be started."""
    return Machine(
        engines=list(engines),
        accelerator=accelerator(),
        memory_bytes=memory_bytes(),
        disk_free_bytes=shutil.disk_usage(data_dir).free,
        platform=f"{platform.system()} {platform.machine()}",
        agent_version=__version__,
    )


def accelerator(root: Path = _ROOT, which: Callable[[str], str | None] = shutil.which) -> str:
    """`nvidia`, `amd` or `intel` if this process may use a compute device, else `cpu`.

    Device files count, which a container has only for the devices it was given; drivers are visible in all of them.
    """
    if any((root / "dev").glob("nvidia[0-9]*")):
        return "nvidia"
    if (root / "dev/kfd").exists() and _any_entry(root / "sys/class/kfd/kfd/topology/nodes", but=_cpu_node):
        return "amd"
    if which("xpu-smi") and _any_entry(root / "dev/dri"):
        return "intel"
    return "cpu"


def memory_bytes(root: Path = _ROOT) -> int:
    """The machine's memory, or the container's limit (cgroup v2) if that is smaller."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = (root / "sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def _any_entry(folder: Path, *, but: Callable[[Path], bool] = lambda _: False) -> bool:
    """Whether the folder has an entry to which `but` does not apply."""
    entries: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    return any(not but(entry) for entry in entries)


def _cpu_node(node: Path) -> bool:
    """ROCm lists CPUs beside accelerators; a CPU has no SIMD units (Linux, `kfd_topology.c`)."""
    try:
        lines = (node / "properties").read_text().splitlines()
    except OSError:
        return True
    return "simd_count 0" in lines or not any(line.startswith("simd_count ") for line in lines)
