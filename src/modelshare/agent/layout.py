"""Arranges a model's files in the folder passed to engines: the model's own folder, with only the weights to be opened.

The server has decided which weights these are. They get the names that all engines expect: one file as
`model.safetensors`, several beside a `model.safetensors.index.json`, parts of a GGUF numbered as in llama.cpp. The
index is generated from the files, since those supplied with models may lack fields that readers need; and a setting
with which Transformers would open another file is removed from config.json.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelshare.agent.errors import DeploymentError
from modelshare.wire.link import DeploymentFile, DesiredDeployment

_SAFETENSORS: Final = ".safetensors"
_GGUF: Final = ".gguf"
_INDEX: Final = ".safetensors.index.json"
_CONFIG: Final = "config.json"
_PLAIN: Final = "model"
_OTHER_WEIGHTS: Final = "transformers_weights"
"""Setting in config.json: the file that Transformers opens instead of `model.safetensors`."""
_FIRST_PART: Final = re.compile(r"(.+-)00001(-of-\d{5}\.gguf)", re.IGNORECASE)
_MAX_HEADER: Final = 100 << 20
"""Same limit as in the safetensors library."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths within the folder."""

    files: Mapping[str, DeploymentFile]
    weights: tuple[str, ...]
    """In order."""
    index: str | None = None
    """Where to write the index of several files."""
    config: str | None = None
    """The config.json that may name other weights."""

    @property
    def key(self) -> str:
        """Distinguishes the weights from others of the same version."""
        digests = "\n".join(self.files[place].sha256 for place in self.weights)
        return hashlib.sha256(digests.encode()).hexdigest()[:16]

    def finish(self, folder: Path) -> None:
        """Writes the generated files. Raises DeploymentError for weights that cannot be read."""
        if self.index is not None:
            beside = posixpath.dirname(self.index)
            here = [place for place in self.weights if posixpath.dirname(place) == beside]
            names = {name: posixpath.basename(place) for place in here for name in _tensor_names(folder / place)}
            size = sum(self.files[place].size for place in here)
            _write(folder / self.index, {"metadata": {"total_size": size}, "weight_map": names})
        if self.config is not None:
            _without_other_weights(folder / self.config)


def lay_out(wanted: DesiredDeployment) -> Layout:
    """Determines where a deployment's files go. Raises DeploymentError if its weights are not among them."""
    if not wanted.weights:
        return _as_they_are(wanted)
    known = {file.path for file in wanted.files}
    if missing := next((path for path in wanted.weights if path not in known), None):
        raise DeploymentError(
            f"The server names {missing[:100]!r} as weights but does not provide it. Update the server."
        )
    beside = posixpath.dirname(wanted.weights[0])
    main = [path for path in wanted.weights if posixpath.dirname(path) == beside]
    renamed = {
        path: posixpath.join(beside, _name(number, len(main), path)) for number, path in enumerate(main, start=1)
    }

    def place(path: str) -> str:
        path = renamed.get(path, path)
        return path.removeprefix(f"{wanted.root}/") if wanted.root else path

    files = {
        place(file.path): file
        for file in wanted.files
        if file.path in wanted.weights or _is_beside(file.path, wanted.root)
    }
    config = place(posixpath.join(beside, _CONFIG))
    is_safetensors = _is(_SAFETENSORS, wanted.weights[0])
    return Layout(
        files,
        tuple(map(place, wanted.weights)),
        place(posixpath.join(beside, _PLAIN + _INDEX)) if is_safetensors and len(main) > 1 else None,
        config if is_safetensors and config in files else None,
    )


def _name(number: int, count: int, path: str) -> str:
    """The file name that engines expect for these weights. A single GGUF keeps its name, since engines get its path."""
    name = posixpath.basename(path)
    extension = next((each for each in (_SAFETENSORS, _GGUF) if _is(each, path)), None)
    if extension is None or (extension == _GGUF and count == 1):
        return name
    return f"{_PLAIN}{extension}" if count == 1 else f"{_PLAIN}-{number:05}-of-{count:05}{extension}"


def _is_beside(path: str, root: str) -> bool:
    """Whether it is in the model's folder and is neither weights nor an index."""
    inside = not root or path.startswith(f"{root}/")
    return inside and not (_is(_SAFETENSORS, path) or _is(_GGUF, path) or path.endswith(_INDEX))


def _as_they_are(wanted: DesiredDeployment) -> Layout:
    """For an older server that does not select weights:

    of GGUF files the first by name, which is the one it describes.
    """
    files = {file.path: file for file in wanted.files}
    ggufs = sorted(path for path in files if _is(_GGUF, path))
    if not ggufs or any(_is(_SAFETENSORS, path) for path in files):
        return Layout(files, tuple(sorted(path for path in files if _is(_SAFETENSORS, path))))
    first = next((path for path in ggufs if "mmproj" not in path.lower()), ggufs[0])
    split = _FIRST_PART.fullmatch(first)
    parts = [path for path in ggufs if split and path.startswith(split[1]) and path.endswith(split[2])]
    return Layout(files, tuple(parts or [first]))


def _is(extension: str, path: str) -> bool:
    return path.lower().endswith(extension)


def _tensor_names(file: Path) -> list[str]:
    """Reads the header, a JSON object preceded by its length in eight bytes:

    https://huggingface.co/docs/safetensors.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(min(length, _MAX_HEADER)))
        except (ValueError, RecursionError) as error:
            raise DeploymentError(f"{file.name} is not a safetensors file.") from error
    return [name for name in header if name != "__metadata__"]


def _without_other_weights(config: Path) -> None:
    try:
        settings = json.loads(config.read_bytes())
    except (ValueError, RecursionError):  # the engine will report it
        return
    if isinstance(settings, dict) and _OTHER_WEIGHTS in settings:
        del settings[_OTHER_WEIGHTS]
        config.unlink()  # it is a link to the cached file, which must not change
        _write(config, settings)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
