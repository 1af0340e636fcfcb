"""Exits with 0 if the installed llama.cpp can use a GPU of this machine: `python -m …llamacpp_gpus`.

In a process of its own, since a driver keeps memory for every process that has looked for GPUs.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import xllamacpp


def any_gpu(devices: Iterable[Mapping[str, Any]]) -> bool:
    """As llama.cpp decides, in `llama_supports_gpu_offload`."""
    kinds = xllamacpp.ggml_backend_dev_type
    gpus = (kinds.GGML_BACKEND_DEVICE_TYPE_GPU, kinds.GGML_BACKEND_DEVICE_TYPE_IGPU)
    return any(device["type"] in gpus for device in devices)


if __name__ == "__main__":
    sys.exit(not any_gpu(xllamacpp.get_device_info()))
