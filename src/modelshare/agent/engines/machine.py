"""What this machine can run engines with."""

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from modelshare.agent.engines.base import EngineKind, EngineOptions
from modelshare.agent.engines.select import Machine

_PROGRAMS: Final = {
    EngineKind.TRANSFORMERS: "transformers",
    EngineKind.VLLM: "vllm",
    EngineKind.SGLANG: "sglang",
}
_NEEDS: Final = {EngineKind.TRANSFORMERS: ("torch", "fastapi", "uvicorn")}
"""Packages without which the program only prints how to install them."""
_GPU_DEVICES: Final = ("/dev/nvidia0", "/dev/kfd")


def detect(options: Mapping[EngineKind, EngineOptions], *, external: bool) -> Machine:
    """Look at the packages, the PATH and the devices. `external`: a server is configured."""
    installed = {kind for kind in _PROGRAMS if find_program(kind, options.get(kind)) and _has_packages(kind, options)}
    if importlib.util.find_spec("xllamacpp"):
        installed.add(EngineKind.LLAMACPP)
    if external:
        installed.add(EngineKind.EXTERNAL)
    return Machine(frozenset(installed), gpu=any(Path(device).exists() for device in _GPU_DEVICES))


def find_program(kind: EngineKind, options: EngineOptions | None) -> str | None:
    """The engine's executable: by setting, beside this Python, or on PATH."""
    if options and options.executable:
        return shutil.which(options.executable)
    name = _PROGRAMS[kind]
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _has_packages(kind: EngineKind, options: Mapping[EngineKind, EngineOptions]) -> bool:
    named = options.get(kind)
    if named and named.executable:  # of another environment: what it has cannot be told from here
        return True
    return all(importlib.util.find_spec(package) for package in _NEEDS.get(kind, ()))
