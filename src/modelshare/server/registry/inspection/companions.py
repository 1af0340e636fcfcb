"""Recognizes companions: files beside a model that are not models themselves, by their metadata and tensors."""

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence

from modelshare.server.registry.inspection.adapters import is_adapter
from modelshare.server.registry.inspection.facts import Role
from modelshare.server.registry.inspection.gguf import Header
from modelshare.server.registry.refused import ModelRejectedError, printable

_BY_TYPE = {"adapter": Role.ADAPTER, "mmproj": Role.PROJECTOR, "imatrix": Role.IMATRIX}
_BY_ARCHITECTURE = {
    "clip": Role.PROJECTOR,
    "wavtokenizer-dec": Role.PROJECTOR,
    "controlvector": Role.CONTROL_VECTOR,
    "imatrix": Role.IMATRIX,
}
_CONTROL_VECTOR = re.compile(r"direction\.\d+")
_PROJECTOR = re.compile(r"(v|a|mm|resampler)\.")
# File names that tools use; considered only if the content cannot be read.
_BY_NAME = {
    "imatrix": Role.IMATRIX,
    "mmproj": Role.PROJECTOR,
    "vocab": Role.VOCABULARY,
    "lora": Role.ADAPTER,
    "adapter": Role.ADAPTER,
}
# Weights in formats that no engine here reads
_OTHER_FORMS = (".onnx", ".onnx_data", ".h5", ".msgpack", ".ot", ".tflite")
_SHOWN = 3

_ONE, _MANY = 0, 1
_WORDS = {
    Role.ADAPTER: ("an adapter", "adapters"),
    Role.PROJECTOR: ("a projector for images or sound", "projectors for images or sound"),
    Role.IMATRIX: ("a calibration matrix (imatrix)", "calibration matrices (imatrix)"),
    Role.VOCABULARY: ("a vocabulary without weights", "vocabularies without weights"),
    Role.CONTROL_VECTOR: ("a control vector", "control vectors"),
    Role.INDEX: ("the index of weights that are not opened", "indices of weights that are not opened"),
    Role.OTHER: ("not part of the model", "not part of the model"),
}
_REMEDIES = {
    Role.ADAPTER: "merge it into its base model and push the result",
    Role.VOCABULARY: "push the file that has the weights",
}


def role_of_gguf(header: Header) -> Role | None:
    """None for a model, or a part of one."""
    names = [tensor.name for tensor in header.tensors]
    if any(name.endswith(".in_sum2") for name in names):
        return Role.IMATRIX
    if any(name.endswith((".lora_a", ".lora_b")) for name in names):
        return Role.ADAPTER
    stated = _BY_TYPE.get(header.text("general.type") or "")
    return stated or _BY_ARCHITECTURE.get(header.text("general.architecture") or "") or _role_of_all(names)


def _role_of_all(names: Sequence[str]) -> Role | None:
    if names and all(map(_CONTROL_VECTOR.fullmatch, names)):
        return Role.CONTROL_VECTOR
    return Role.PROJECTOR if names and all(map(_PROJECTOR.match, names)) else None


def role_by_name(path: str) -> Role | None:
    """The role of a file that cannot be read."""
    words = re.split(r"[^a-z]+", posixpath.basename(path).lower())
    return next((role for word, role in _BY_NAME.items() if word in words), None)


def role_of_safetensors(path: str, names: Collection[str], beside: Collection[str]) -> Role | None:
    """None for weights of a model. `beside`: all paths of the version."""
    return Role.ADAPTER if is_adapter(path, names, beside) else None


def is_of_other_form(path: str, beside: Collection[str]) -> bool:
    """Whether it has weights in a format that no engine here reads. OpenVINO keeps them in NAME.bin beside NAME.xml."""
    stem, extension = posixpath.splitext(path)
    return extension.lower() in _OTHER_FORMS or (extension == ".bin" and f"{stem}.xml" in beside)


def notes(companions: Mapping[str, Role]) -> list[str]:
    """A sentence for each kind of companion, with their names; alternatives are reported elsewhere."""
    found = []
    for role, words in _WORDS.items():
        paths = sorted(path for path, its in companions.items() if its is role)
        if paths:
            verb, what = ("is", words[_ONE]) if len(paths) == 1 else ("are", words[_MANY])
            found.append(f"{_named(paths)} {verb} {what}: stored, and not run.")
    return found


def alone(path: str, role: Role, base: str | None = None) -> ModelRejectedError:
    """The error for a version that contains only companions. `base`: the base model of an adapter."""
    remedy = _REMEDIES.get(role, "push it together with the model that it belongs to")
    if role is Role.VOCABULARY:
        return ModelRejectedError(f"{printable(path)} contains no tensors (a vocabulary only); {remedy}.")
    if role is Role.ADAPTER and base is not None:
        remedy = f"merge it into its base model, {printable(base)}, and push the result"
    return ModelRejectedError(f"{printable(path)} is {_WORDS[role][_ONE]}, not a model by itself; {remedy}.")


def _named(paths: Sequence[str]) -> str:
    names = [printable(path) for path in paths[:_SHOWN]]
    if more := len(paths) - len(names):
        return f"{', '.join(names)} and {more:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
