"""Checks how llama.cpp itself reads GGUF files, through the C API of its library in the xllamacpp wheel.

`python tests/llamacpp_library.py FILE ...` loads each file as a model and prints the result, in a separate process,
since some damaged files crash it.
"""

import ctypes
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from xllamacpp import xllamacpp

_LOADED, _REFUSED = "loaded", "refused"
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SILENT = _LOG(lambda _level, _text, _data: None)


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class _ModelParams(ctypes.Structure):
    """Larger than the library's struct; it is passed in memory, and the rest is ignored."""

    _fields_ = (("opaque", ctypes.c_byte * 512),)


@cache
def _library() -> Any:
    library = ctypes.CDLL(xllamacpp.__file__)
    library.gguf_init_from_buffer.restype = ctypes.c_void_p
    library.gguf_init_from_buffer.argtypes = (ctypes.c_char_p, ctypes.c_size_t, _InitParams)
    library.gguf_free.argtypes = (ctypes.c_void_p,)
    for name in ("gguf_get_data_offset", "gguf_get_tensor_offset", "gguf_get_tensor_size"):
        getattr(library, name).restype = ctypes.c_size_t
        getattr(library, name).argtypes = (ctypes.c_void_p, ctypes.c_int64)
    library.gguf_get_data_offset.argtypes = (ctypes.c_void_p,)
    library.gguf_get_n_tensors.restype = ctypes.c_int64
    library.gguf_get_n_tensors.argtypes = (ctypes.c_void_p,)
    library.llama_model_default_params.restype = _ModelParams
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_model_load_from_file.argtypes = (ctypes.c_char_p, _ModelParams)
    library.llama_model_free.argtypes = (ctypes.c_void_p,)
    library.ggml_log_set(_SILENT, None)
    library.llama_log_set(_SILENT, None)
    return library


def reads(data: bytes) -> bool:
    """Whether it can parse the header, and all tensors are within the file, as its model loader requires."""
    library = _library()
    found = library.gguf_init_from_buffer(data, len(data), _InitParams(no_alloc=True, ctx=None))
    if not found:
        return False
    start = library.gguf_get_data_offset(found)
    ends = [
        start + library.gguf_get_tensor_offset(found, number) + library.gguf_get_tensor_size(found, number)
        for number in range(library.gguf_get_n_tensors(found))
    ]
    library.gguf_free(found)
    return max(ends, default=0) <= len(data)


def loads(files: Mapping[str, Path]) -> dict[str, bool]:
    """Whether it can load each file as a model."""
    left = dict(files)
    verdicts = {}
    while left:
        child = subprocess.run([sys.executable, __file__, *left.values()], capture_output=True, text=True, check=False)
        lines = child.stdout.split()
        if child.returncode:
            lines.append(_REFUSED)  # the next file crashed the process
        for name, verdict in zip(list(left), lines, strict=False):
            verdicts[name] = verdict == _LOADED
            del left[name]
    return verdicts


def _main() -> None:
    library = _library()
    for path in sys.argv[1:]:
        model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
        sys.stdout.write(f"{_LOADED if model else _REFUSED}\n")
        sys.stdout.flush()
        if model:
            library.llama_model_free(model)


if __name__ == "__main__":
    _main()
