"""Rules for uploads: version numbers, file names, quota. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.wire import model_files
from modelshare.wire.left_out import Reason, Selection, left_out
from modelshare.wire.uploads import VersionOpen

_CORE = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)")
FIRST_VERSION = "1.0.0"
_WEIGHTS = (".gguf", ".safetensors", ".safetensors.index.json")
_MAX_NAMES = 5
_MAX_WORK = 10_000_000  # steps of pattern matching, a few hundred nanoseconds each
_SMALL = 10_000_000  # bytes; smaller sizes are shown in bytes, not as 0.00 GB


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file that a client wants to send."""

    path: str
    size: int
    sha256: str | None = None


def wanted_files(request: VersionOpen) -> list[WantedFile]:
    """The files of a request. An archive counts as one file until it is unpacked."""
    if request.archive is not None:
        return [WantedFile(request.archive.filename, request.archive.size)]
    return [WantedFile(file.path, file.size, file.sha256) for file in request.files or ()]


def selection_of(request: VersionOpen) -> dict[str, list[str]]:
    """The include and exclude patterns for an archive; empty without any."""
    patterns = {"include": request.include, "exclude": request.exclude} if request.archive else {}
    return {name: given for name, given in patterns.items() if given}


def check_names(request: VersionOpen, *, allow_pickle: bool) -> None:
    """Raises ModelRejectedError if files of these names cannot be a model. An archive is checked when it is
    unpacked."""
    chosen = Selection.of(exclude=request.exclude or (), include=request.include or ())
    paths = [file.path for file in request.files or ()]
    # Without `exclude`, only files on the default list can be left out: `include` does not exclude anything.
    to_check = paths if request.exclude else [path for path in paths if left_out(path)]
    if sum(map(chosen.work, to_check)) > _MAX_WORK:
        raise ModelRejectedError("There are too many patterns for so many files; give fewer or simpler ones.")
    for path in to_check:
        found = chosen.left_out(path)
        if found is not None and found.reason is not Reason.SYSTEM:  # harmless, and many clients send such files
            raise ModelRejectedError(
                f"{printable(path)} is left out of models ({found.reason}). Open the upload without it, or list it "
                "in `include` to publish it anyway."
            )
    if paths and (why := model_files.refusal(paths, allow_pickle=allow_pickle)):
        raise ModelRejectedError(why)


def check_named_model(file: str, paths: Sequence[str]) -> None:
    """Raises ModelRejectedError unless `file`, which the push selects as the model, is one of `paths` and has
    weights."""
    weights = sorted(path for path in paths if path.lower().endswith(_WEIGHTS))
    if file in weights:
        return
    what = "contains no weights" if file in paths else "is not among the files"
    names = ", ".join(map(printable, weights[:_MAX_NAMES])) + (", …" if len(weights) > _MAX_NAMES else "")
    remedy = f"choose one of: {names}" if names else "there are no .gguf and no .safetensors files, leave `file` out"
    raise ModelRejectedError(f"{printable(file)}, which `file` selects as the model, {what}; {remedy}.")


def next_version(taken: Iterable[str]) -> str:
    """The patch version after the highest of `taken`, ignoring pre-release labels: higher than all of them."""
    cores = [tuple(map(int, match.groups())) for version in taken if (match := _CORE.match(version))]
    if not cores:
        return FIRST_VERSION
    major, minor, patch = max(cores)
    return f"{major}.{minor}.{patch + 1}"


def is_same_push(session: Mapping[str, WantedFile], again: Iterable[WantedFile]) -> bool:
    """Whether both have the same files: equal paths and sizes, and no digests that differ."""
    files = list(again)
    return len(files) == len(session) and all(
        (known := session.get(file.path)) is not None
        and known.size == file.size
        and (known.sha256 is None or file.sha256 is None or known.sha256 == file.sha256)
        for file in files
    )


def quota_refusal(*, needed: int, stored: int, quota: int, what: str = "This push") -> str | None:
    """Why `needed` more bytes exceed the quota, or None if they do not."""
    if stored + needed <= quota:
        return None
    left = max(0, quota - stored)
    return (
        f"{what} needs {gigabytes(needed)}, but your project has {gigabytes(left)} of its {gigabytes(quota)} "
        "left. Delete models you no longer need, or ask the platform's operator for a larger quota."
    )


def gigabytes(size: int) -> str:
    """A size to show to users; exact if it is small."""
    if size == 1:
        return "1 byte"
    return f"{size:,} bytes" if size < _SMALL else f"{size / 1e9:,.2f} GB"
