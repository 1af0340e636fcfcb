"""Finds files that run code when Python loads them, by name and by content."""

import posixpath
from collections.abc import Mapping

from modelshare.server.registry.inspection import pickle_scan
from modelshare.server.registry.inspection.reader import RangeReader, head
from modelshare.server.registry.refused import ModelRejectedError, printable

_PICKLE_EXTENSIONS = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pckl",
    ".pickle",
    ".dill",
    ".joblib",
    ".pt2",
    ".pth.tar",
)
_WEIGHT_EXTENSIONS = (".safetensors", ".gguf")
_ZIP = b"PK\x03\x04"
_PICKLE_PROTOCOLS = tuple(bytes([0x80, version]) for version in range(2, 6))
_NUMPY = b"\x93NUMPY"
_HEAD_BYTES = 512


def find_pickles(files: Mapping[str, RangeReader], *, allow: bool) -> tuple[str, ...]:
    """The pickles among `files`, sorted. Raises ModelRejectedError for the first unless `allow`; always for a disguised
    one, and for one with a harmful import."""
    found = []
    for path, reader in sorted(files.items()):
        start = head(reader, _HEAD_BYTES)
        if path.lower().endswith(_WEIGHT_EXTENSIONS):
            if _is_archive_or_pickle(start):
                raise ModelRejectedError(
                    f"{printable(path)} is a Python pickle or a zip archive under another name; "
                    "convert the weights to safetensors or GGUF and push again."
                )
        elif _is_pickle(path, start, files):
            found.append(path)
    if found and not allow:
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ModelRejectedError(
            f"{printable(found[0])}{others} is a Python pickle, which can run code when it is loaded; "
            "leave it out or convert the weights to safetensors, and push again."
        )
    for path in found:
        pickle_scan.check(path, files[path])
    return tuple(found)


def _is_pickle(path: str, start: bytes, files: Mapping[str, RangeReader]) -> bool:
    stem, extension = posixpath.splitext(path.lower())
    if extension == ".bin" and f"{posixpath.splitext(path)[0]}.xml" in files:
        return _is_archive_or_pickle(start)  # OpenVINO keeps plain numbers in NAME.bin beside NAME.xml
    if extension in _PICKLE_EXTENSIONS or (stem + extension).endswith(_PICKLE_EXTENSIONS):
        return True
    # the first entry in torch.save's zip is ARCHIVE/data.pkl; numpy pickles arrays of objects
    torch_zip = start.startswith(_ZIP) and b"/data.pkl" in start
    numpy_objects = start.startswith(_NUMPY) and b"|O" in start
    return start.startswith(_PICKLE_PROTOCOLS) or torch_zip or numpy_objects


def _is_archive_or_pickle(start: bytes) -> bool:
    return start.startswith((_ZIP, *_PICKLE_PROTOCOLS))
