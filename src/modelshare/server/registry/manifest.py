"""The manifest: the public description of a version in a canonical form, so that its digest identifies the version."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from modelshare.server.registry.paths import check_paths
from modelshare.server.registry.refused import ModelRejectedError

SCHEMA_VERSION: Final = 1
_MAX_INTEGER = 2**53 - 1  # beyond it JSON numbers lose precision in most parsers, RFC 7493 section 2.2
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidManifestError(ValueError):
    """The value or the bytes are not a manifest in canonical form."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    path: str
    size: int  # bytes
    sha256: str  # 64 lower-case hex digits

    def __post_init__(self) -> None:
        if not 0 <= self.size <= _MAX_INTEGER:
            raise InvalidManifestError(f"the size of {self.path} is out of range")
        if not _SHA256.fullmatch(self.sha256):
            raise InvalidManifestError(f"the sha256 of {self.path} is not 64 lower-case hex digits")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of a model. Immutable; contains no URLs, no bucket names and no secrets.

    `facts` is JSON without floats, from `inspection.Facts.for_manifest`; `created` is in Unix seconds.
    """

    name: str
    version: str
    files: tuple[ManifestFile, ...]  # sorted by path
    facts: Mapping[str, Any]
    license: str | None
    created: int
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        paths = [file.path for file in self.files]
        check_paths(paths)
        if paths != sorted(paths):
            raise InvalidManifestError("the files are not sorted by path")
        if self.schema_version != SCHEMA_VERSION:
            raise InvalidManifestError(f"schema version {self.schema_version} is not supported")

    @classmethod
    def of(
        cls,
        *,
        name: str,
        version: str,
        files: Iterable[ManifestFile],
        facts: Mapping[str, Any],
        license: str | None,  # noqa: A002 - the name of the manifest's field
        created: int,
    ) -> Self:
        """A manifest of these files, in any order. Raises ModelRejectedError for invalid or conflicting paths."""
        ordered = tuple(sorted(files, key=lambda file: file.path))
        return cls(name=name, version=version, files=ordered, facts=facts, license=license, created=created)

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


def canonical_bytes(manifest: Manifest) -> bytes:
    """The manifest in canonical JSON (RFC 8785). Raises InvalidManifestError for values that it cannot represent."""
    return canonical_json({**msgspec.to_builtins(manifest), "total_bytes": manifest.total_bytes})


def digest(data: bytes) -> str:
    """`sha256:<hex>` of canonical bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse(data: bytes) -> Manifest:
    """Parses a manifest. Raises InvalidManifestError unless the bytes are in canonical form."""
    try:
        fields = json.loads(data)
        manifest = msgspec.convert(fields, Manifest)
    except (ValueError, RecursionError, ModelRejectedError) as error:
        raise InvalidManifestError(f"not a manifest: {error}") from error
    if canonical_bytes(manifest) != data:
        raise InvalidManifestError("not a manifest in canonical form")
    return manifest


def canonical_json(value: object) -> bytes:
    """RFC 8785 for the subset of JSON in manifests: no floats, integers below 2^53, keys ordered by UTF-16 code
    units."""
    try:
        return json.dumps(_ordered(value), ensure_ascii=False, separators=(",", ":")).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise InvalidManifestError(f"not representable in canonical JSON: {error}") from error


def _ordered(value: object) -> object:
    match value:
        case None | bool() | str():
            return value
        case int() if abs(value) <= _MAX_INTEGER:
            return value
        case list() | tuple():
            return [_ordered(item) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _ordered(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    raise InvalidManifestError(f"not representable in canonical JSON: {type(value).__name__} {value!r:.80}")
