"""The folder that engines are given: what lies in the model's own folder, and of weights those alone that are opened.

Which those are, the server has decided. An engine that opens a folder finds nothing else there, under the names that
all of them look for: one file as `model.safetensors`, several beside a `model.safetensors.index.json`.
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
from modelshare.wire.link import DeploymentFile, Wanted

_SAFETENSORS: Final = ".safetensors"
_GGUF: Final = ".gguf"
_INDEX: Final = ".safetensors.index.json"
_PLAIN: Final = "model"
_FIRST_PART: Final = re.compile(r"(.+-)00001(-of-\d{5}\.gguf)", re.IGNORECASE)
_MAX_HEADER: Final = 100 << 20
"""As the format's own reader allows."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths within the folder."""

    files: Mapping[str, DeploymentFile]
    weights: tuple[str, ...]
    """In order."""
    index: str | None = None
    """Where an index is to be written, since none came with the weights."""

    @property
    def key(self) -> str:
        """Tells the weights from others of the same version."""
        digests = "\n".join(self.files[place].sha256 for place in self.weights)
        return hashlib.sha256(digests.encode()).hexdigest()[:16]

    def write_index(self, folder: Path) -> None:
        """Says in which file each tensor is. Raises DeploymentError for files that cannot be read."""
        if self.index is None:
            return
        beside = posixpath.dirname(self.index)
        here = [place for place in self.weights if posixpath.dirname(place) == beside]
        names = {name: posixpath.basename(place) for place in here for name in _tensor_names(folder / place)}
        size = sum(self.files[place].size for place in here)
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": names})
        (folder / self.index).write_text(text, encoding="utf-8")


def lay_out(wanted: Wanted) -> Layout:
    """Where the files of a deployment go. Raises DeploymentError where the weights are not among them."""
    if not wanted.weights:
        return _as_they_are(wanted)
    known = {file.path for file in wanted.files}
    if missing := next((path for path in wanted.weights if path not in known), None):
        raise DeploymentError(f"The server names {missing[:100]!r} as weights and does not give it; update the server.")
    beside = posixpath.dirname(wanted.weights[0])
    main = [path for path in wanted.weights if posixpath.dirname(path) == beside and _is(_SAFETENSORS, path)]
    index = _index(known, beside) if len(main) > 1 else None
    renamed = {main[0]: posixpath.join(beside, _PLAIN + _SAFETENSORS)} if len(main) == 1 else {}
    plain_index = posixpath.join(beside, _PLAIN + _INDEX)
    if index is not None:
        renamed[index] = plain_index

    def place(path: str) -> str:
        path = renamed.get(path, path)
        return path.removeprefix(f"{wanted.root}/") if wanted.root else path

    kept = {*wanted.weights, *([index] if index else [])}
    return Layout(
        {place(file.path): file for file in wanted.files if file.path in kept or _is_beside(file.path, wanted.root)},
        tuple(map(place, wanted.weights)),
        place(plain_index) if len(main) > 1 and index is None else None,
    )


def _index(paths: set[str], folder: str) -> str | None:
    """The one index beside the weights, the plain one first."""
    here = [path for path in paths if path.endswith(_INDEX) and posixpath.dirname(path) == folder]
    return min(here, key=lambda path: (posixpath.basename(path) != _PLAIN + _INDEX, path), default=None)


def _is_beside(path: str, root: str) -> bool:
    """Whether it lies in the model's folder, and is neither weights nor an index of any."""
    inside = not root or path.startswith(f"{root}/")
    return inside and not (_is(_SAFETENSORS, path) or _is(_GGUF, path) or path.endswith(_INDEX))


def _as_they_are(wanted: Wanted) -> Layout:
    """For an older server, which does not say what is opened: of GGUF the first by name, as it describes that one."""
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
    """https://huggingface.co/docs/safetensors: eight bytes of length, then a JSON header of that length."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(min(length, _MAX_HEADER)))
        except ValueError as error:
            raise DeploymentError(f"{file.name} is no safetensors file.") from error
    return [name for name in header if name != "__metadata__"]
