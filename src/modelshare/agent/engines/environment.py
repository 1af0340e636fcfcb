"""What an engine's process gets to know of the agent's environment. Pure."""

from collections.abc import Mapping
from typing import Final

MORE: Final = "MODELSHARE_ENGINE_ENV"
"""Names a machine's operator wants passed too, with commas between them; one may end in `*`."""
# fmt: off
_NAMES: Final = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "TEMP", "TMP",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_CACHE_HOME", "HF_HOME",
    "HF_HUB_CACHE",
})
"""What any program needs to find its parts, its folders and its language."""
_FAMILIES: Final = (
    "LC_", "PYTHON", "CUDA_", "NVIDIA_", "NCCL_", "CUDNN_", "HIP_", "HSA_", "ROCM_", "ROCR_", "RCCL_",
    "GPU_", "ONEAPI_", "SYCL_", "ZE_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "GGML_",
    "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "VLLM_", "SGLANG_", "SGL_",
)
# fmt: on
"""How accelerators, threads and the engines themselves are set up."""
_SECRETS: Final = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
"""In a name of a family: nothing that an engine is set up with."""


def for_engines(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of it that engines need, and what `MORE` names; never what is meant for the agent alone."""
    more = [name.strip() for name in environ.get(MORE, "").split(",") if name.strip()]
    return {name: value for name, value in environ.items() if _is_needed(name) or _is_named(name, more)}


def _is_needed(name: str) -> bool:
    return name in _NAMES or (name.startswith(_FAMILIES) and not any(word in name.upper() for word in _SECRETS))


def _is_named(name: str, more: list[str]) -> bool:
    if name.startswith("MODELSHARE_"):
        return False
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in more)
