"""The OCI manifest and config of a version as a ModelPack artifact. Pure.

Each file is one raw layer whose digest is the file's SHA-256, so nothing is packed or stored twice. The same source
always gives the same bytes. https://github.com/modelpack/model-spec
"""

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from modelshare.server.registry.manifest import ManifestFile

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
MAX_MANIFEST: Final = 4 << 20
"""Bytes; clients reject larger manifests."""
_WEIGHTS: Final = (".safetensors", ".gguf", ".onnx", ".onnx_data")
_DOCUMENTS: Final = (".md", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")
_DOCUMENT_NAMES: Final = ("readme", "license", "licence", "notice", "copying", "changelog")
_DATASETS: Final = (".parquet", ".arrow")
_PRECISIONS: Final = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_UNITS: Final = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))
_REGULAR_FILE: Final = 48
"""Type of an entry of a tar archive: the character `0`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an artifact contains of a version; nothing that can be edited later."""

    name: str
    version: str
    created: int
    """Unix seconds."""
    license: str | None
    family: str | None
    format: str
    architecture: str | None
    parameters: int | None
    quantization: str | None
    files: Sequence[ManifestFile]
    weights: frozenset[str]
    """Paths of files with tensors, whatever their extension."""


@dataclass(frozen=True, slots=True)
class Artifact:
    manifest: bytes
    config: bytes


def render(source: Source) -> Artifact:
    """Leaves out empty files: clients treat an empty layer as a failed download."""
    created = datetime.fromtimestamp(source.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    files = sorted((file for file in source.files if file.size), key=lambda file: file.path)
    config = msgspec.json.encode(_config(source, files, created))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [_layer(file, source.weights, created) for file in files],
        "annotations": _stated(
            {
                "org.opencontainers.image.created": created,
                "org.opencontainers.image.version": source.version,
                "org.opencontainers.image.licenses": source.license,
                "org.opencontainers.image.title": source.name,
            }
        ),
    }
    return Artifact(msgspec.json.encode(manifest), config)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def too_large(artifact: Artifact, files: int) -> str | None:
    """Why OCI clients cannot read it, as a message; None if they can."""
    size = len(artifact.manifest)
    if size <= MAX_MANIFEST:
        return None
    return (
        f"This version has no OCI form: it has {files:,} files, and their manifest would have {size:,} bytes, where "
        f"OCI clients read {MAX_MANIFEST:,}."
    )


def _layer(file: ManifestFile, weights: frozenset[str], created: str) -> dict[str, Any]:
    metadata = {
        "name": file.path,
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": file.size,
        "mtime": created,
        "typeflag": _REGULAR_FILE,
    }
    kind = "weight" if file.path in weights else _kind(file.path.lower())
    return {
        "mediaType": f"application/vnd.cncf.model.{kind}.v1.raw",
        "digest": f"sha256:{file.sha256}",
        "size": file.size,
        "annotations": {
            "org.cncf.model.filepath": file.path,
            "org.opencontainers.image.title": file.path,
            "org.cncf.model.file.metadata+json": msgspec.json.encode(metadata).decode(),
        },
    }


def _kind(path: str) -> str:
    """By the lower-case path. Other files are `weight.config`: some clients unpack only these and weights."""
    name = posixpath.basename(path)
    if path.endswith(_WEIGHTS):
        return "weight"
    if path.endswith(".py"):
        return "code"
    if path.endswith(_DOCUMENTS) or posixpath.splitext(name)[0] in _DOCUMENT_NAMES:
        return "doc"
    return "dataset" if path.endswith(_DATASETS) else "weight.config"


def _config(source: Source, files: Sequence[ManifestFile], created: str) -> dict[str, Any]:
    precision = _PRECISIONS.get(source.quantization or "")
    return {
        "descriptor": _stated(
            {
                "createdAt": created,
                "name": source.name,
                "version": source.version,
                "family": source.family,
                "licenses": [source.license] if source.license else None,
                "title": source.name,
            }
        ),
        "config": _stated(
            {
                "architecture": source.architecture,
                "format": source.format,
                "paramSize": _rounded(source.parameters or 0),
                "precision": precision,
                "quantization": None if precision else source.quantization,
            }
        ),
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{file.sha256}" for file in files]},
    }


def _rounded(parameters: int) -> str | None:
    """Such as `6.7B`; None for small numbers."""
    for unit, letter in _UNITS:
        tenths = round(parameters * 10 / unit)
        if tenths >= 10:  # noqa: PLR2004 - one whole unit
            whole, rest = divmod(tenths, 10)
            return f"{whole}.{rest}{letter}" if rest else f"{whole}{letter}"
    return None


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
