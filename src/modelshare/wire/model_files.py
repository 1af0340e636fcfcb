"""Checks that need only the names of a model's files, before any byte is sent. Pure."""

import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from modelshare.wire.text import visible

SAFE_WEIGHTS: Final = (".safetensors", ".gguf")
PICKLES: Final = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pckl", ".pickle", ".dill", ".joblib", ".pt2", ".pth.tar"),
)
"""Extensions of files that run code when Python loads them."""
INDEX: Final = ".safetensors.index.json"
_CONFIGS: Final = frozenset({"config.json", "adapter_config.json"})

_NUMBERED = re.compile(r"(?P<prefix>.+)-(?P<number>[0-9]{5,9})-of-(?P<count>[0-9]{5,9})(?P<suffix>\.[^/]+)")
_ANOTHER_END = re.compile(
    r"(?P<name>.+\.(?:safetensors|gguf))(?P<end>\.(?:txt|zip|gz|bz2|xz|zst|7z|rar|bak|old|[0-9]+)| ?\([0-9]+\)|[_~]+)",
    re.IGNORECASE,
)
_PIECE = re.compile(r".+\.(?:safetensors|gguf)(?:-split-[a-z]+|\.part-?[0-9a-z]+(?:of[0-9]+)?)", re.IGNORECASE)
_LIKE_SAFETENSORS: Final = 0.85
_LIKE_GGUF: Final = 0.75
"""Minimal `difflib` ratios: one or two letters may differ. Other formats such as `.ggml` and `.tensors` differ more."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """The name of one of several files that belong together, such as `model-00002-of-00003.safetensors`."""

    prefix: str
    number: int
    count: int
    suffix: str
    width: int
    count_width: int

    def sister(self, number: int) -> str:
        return f"{self.prefix}-{number:0{self.width}}-of-{self.count:0{self.count_width}}{self.suffix}"


def numbered(path: str) -> Numbered | None:
    """Parses the name of a weights file that is one of several; None for other files."""
    found = _NUMBERED.fullmatch(path)
    if found is None or not found["suffix"].lower().endswith((*SAFE_WEIGHTS, *PICKLES)):
        return None
    digits, of = found["number"], found["count"]
    return Numbered(found["prefix"], int(digits), int(of), found["suffix"], len(digits), len(of))


def is_pickle_name(path: str, paths: Collection[str]) -> bool:
    """Whether the name is that of a pickle.

    NAME.bin beside NAME.xml is an OpenVINO model, which contains plain numbers.
    """
    if path.lower().endswith(".bin") and f"{posixpath.splitext(path)[0]}.xml" in paths:
        return False
    return path.lower().endswith(PICKLES)


def refusal(paths: Collection[str], *, allow_pickle: bool = True, unfinished: Collection[str] = ()) -> str | None:
    """Why files with these names cannot be pushed as a model, and what to do; None if they can.

    `unfinished`: unfinished downloads in the same folder, which are left out.
    """
    names = set(paths)
    return (
        _no_weights(names, unfinished)
        or next(filter(None, (_misnamed(path) for path in sorted(names))), None)
        or _missing_part(names, unfinished)
        or (None if allow_pickle else pickle_refusal(names))
    )


def incomplete(paths: Collection[str]) -> str | None:
    """What is missing from a model whose files come one after the other, by their names; None if nothing is."""
    names = set(paths)
    if missing_part := _missing_part(names, ()):
        return missing_part
    if not any(path.lower().endswith((*SAFE_WEIGHTS, *PICKLES)) for path in names):
        return "There are no weights yet."
    configs = {posixpath.basename(path) for path in names} & _CONFIGS
    is_only_safetensors = not any(path.lower().endswith((".gguf", *PICKLES)) for path in names)
    return "There is no config.json yet." if is_only_safetensors and not configs else None


def pickle_refusal(paths: Collection[str]) -> str | None:
    found = sorted(path for path in paths if is_pickle_name(path, paths))
    if not found:
        return None
    others = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    return (
        f"{_shown(found[0])}{others} is a Python pickle, which can run code when it is loaded; leave it out "
        "(`--exclude`) or convert the weights to safetensors, and push again."
    )


def missing(path: str, *, unfinished: Collection[str] = (), count: int = 0, more: int = 0) -> str:
    """A message that a file of a group is missing. `count`: the size of the group, `more`: further missing files."""
    others = f" and {more:,} more" if more else ""
    is_or_are = "are" if more else "is"
    of = f", of {count:,} that belong together" if count else ""
    half = next((each for each in sorted(unfinished) if each.startswith(path) and each != path), None)
    remedy = f"{_shown(half)} is an unfinished download: finish it" if half else "Push all of them"
    return f"{_shown(path)}{others} {is_or_are} missing{of}. {remedy}."


def _missing_part(paths: set[str], unfinished: Collection[str]) -> str | None:
    groups: dict[tuple[str, int, str], tuple[Numbered, set[int]]] = {}
    for path in sorted(paths):
        if part := numbered(path):
            if not 1 <= part.number <= part.count:
                return f"{_shown(path)} has a part number beyond its part count. Restore the file's original name."
            groups.setdefault((part.prefix, part.count, part.suffix), (part, set()))[1].add(part.number)
    for part, present in groups.values():
        if len(present) < part.count:
            first = next(number for number in range(1, part.count + 1) if number not in present)
            more = part.count - len(present) - 1
            return missing(part.sister(first), unfinished=unfinished, count=part.count, more=more)
    return None


def _no_weights(paths: Collection[str], unfinished: Collection[str]) -> str | None:
    if any(path.lower().endswith((*SAFE_WEIGHTS, *PICKLES)) for path in paths):
        return None
    if wrong := next(filter(None, (_misnamed(path) for path in sorted(paths))), None):
        return wrong
    if half := next((each for each in sorted(unfinished) if _is_of_weights(each)), None):
        return f"There are no weights: {_shown(half)} is an unfinished download. Finish it, and push again."
    return (
        "There are no weights (.safetensors or .gguf) among these files. Push the folder that has the model's "
        "config.json and weights."
    )


def _is_of_weights(path: str) -> bool:
    return any(f"{end}." in path.lower() for end in SAFE_WEIGHTS)


def _misnamed(path: str) -> str | None:
    """Explains that a weights file has a name that no engine recognizes; None for other files."""
    if _PIECE.fullmatch(path):
        return f"{_shown(path)} is a fragment of a file. Join the fragments into the original file, and push that."
    if found := _ANOTHER_END.fullmatch(path):
        if found["end"].lower() in {".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}:
            return (
                f"{_shown(path)} is compressed, and no engine can read it. Decompress it, or leave it out "
                "(`--exclude`)."
            )
        right = found["name"]
    else:
        stem, extension = posixpath.splitext(path)
        if (meant := _meant(extension.lower())) is None:
            return None
        right = stem + meant
    return (
        f"{_shown(path)} does not have the file extension of weights. Rename it to "
        f"{_shown(posixpath.basename(right))}, or leave it out (`--exclude`)."
    )


def _meant(extension: str) -> str | None:
    """The weights extension that this one is probably a misspelling of; None if there is none."""
    for end, least in ((".safetensors", _LIKE_SAFETENSORS), (".gguf", _LIKE_GGUF)):
        near = SequenceMatcher(None, extension[1:].replace("_", "").replace("-", ""), end[1:]).ratio()
        if extension != end and near >= least:
            return end
    return None


def _shown(path: str) -> str:
    return visible(path if len(path) <= 120 else f"{path[:119]}…")  # noqa: PLR2004 - fits a sentence
