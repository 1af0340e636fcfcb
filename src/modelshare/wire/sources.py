"""What other places answer when a model is imported from them: only what is read of it, within bounds.

Nothing in here is trusted beyond its form. Paths are checked as those of a push are.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

MAX_JSON: Final = 16 << 20
"""Bytes of one answer."""
MAX_MANIFEST: Final = 4 << 20
"""Bytes of a registry's manifest; clients of registries accept no more."""
MAX_ENTRIES: Final = 20_000
"""Files and folders of a listing, over all of its pages."""
MAX_PAGES: Final = 1_000
"""Of a listing."""

Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Size = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Text = Annotated[str, Meta(max_length=4096)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
GitOid = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Token = Annotated[str, Meta(min_length=1, max_length=1 << 16, pattern=r"^[!-~]+\Z")]


class HubRevision(Struct, frozen=True):
    """`GET /api/models/{id}/revision/{revision}`."""

    sha: Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}\Z")]
    tags: Annotated[list[Text], Meta(max_length=10_000)] = []


class LargeFile(Struct, frozen=True):
    oid: Sha256
    size: Size


class HubEntry(Struct, frozen=True):
    """A file or folder of `GET /api/models/{id}/tree/{revision}`."""

    type: Text
    """`file` or `directory`."""
    path: Path
    size: Size = 0
    oid: GitOid | None = None
    """Of a small file: git's SHA-1 of it."""
    lfs: LargeFile | None = None


class Descriptor(Struct, frozen=True, rename="camel"):
    """A blob that a manifest names."""

    digest: Digest
    size: Size
    media_type: Text = ""
    annotations: dict[Text, Text] | None = None


class OciManifest(Struct, frozen=True, rename="camel"):
    """A manifest of a registry, or an index of several."""

    media_type: Text = ""
    layers: list[Descriptor] | None = None
    manifests: list[msgspec.Raw] | None = None
    annotations: dict[Text, Text] | None = None


class RegistryToken(Struct, frozen=True):
    token: Token | None = None
    access_token: Token | None = None
