"""What a source has: the files behind a reference, with the digests that it claims."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote, urlencode, urljoin, urlsplit

from modelshare.server.registry.imports.source_client import SourceClient, SourceError, SourceRefusedError
from modelshare.server.registry.paths import MAX_FILES
from modelshare.server.registry.refused import printable
from modelshare.wire import sources as wire
from modelshare.wire.importing import SourceKind, SourceReference

_LOOPBACK: Final = re.compile(r"(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?")
_NEXT: Final = re.compile(r'<([^<>]{1,4000})>;\s*rel="next"')
_LICENSE: Final = "license:"
_PATH_ANNOTATIONS: Final = ("org.cncf.model.filepath", "org.opencontainers.image.title")
_LICENSES_ANNOTATION: Final = "org.opencontainers.image.licenses"
_UNPACK_ANNOTATION: Final = "io.deis.oras.content.unpack"
_MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"
)
_PARAMETER: Final = re.compile(r'([a-z]{1,20})="([^"]{0,2000})"')
_TOKEN_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceFile:
    path: str
    size: int
    url: str
    sha256: str | None
    git_oid: str | None = None
    """Git's SHA-1 of a small file, where the SHA-256 is not stated."""


@dataclass(frozen=True, slots=True)
class Listing:
    commit: str
    files: Sequence[SourceFile]
    license: str | None


class Source(Protocol):
    async def list_files(self, commit: str | None) -> Listing:
        """`commit`: what the reference meant when the import began; None: find out. Raises SourceError."""
        ...


def endpoint_of(reference: SourceReference, given: str | None, hub: str) -> str:
    """The URL to ask, without a slash at its end. As for other clients, registries on the same machine use http."""
    if given is not None:
        return given.rstrip("/")
    if reference.kind is SourceKind.HUGGING_FACE:
        return hub.rstrip("/")
    return f"{'http' if _LOOPBACK.fullmatch(reference.host) else 'https'}://{reference.host}"


def authorization_of(kind: SourceKind, token: str | None) -> str | None:
    """What is sent from the start: a registry is asked for a challenge first."""
    return f"Bearer {token}" if token is not None and kind is SourceKind.HUGGING_FACE else None


def open_source(client: SourceClient, reference: SourceReference, endpoint: str, token: str | None) -> Source:
    if reference.kind is SourceKind.HUGGING_FACE:
        return HubSource(client, reference, endpoint, has_token=token is not None)
    return RegistrySource(client, reference, endpoint, token)


class HubSource:
    """A repository of a Hugging Face Hub."""

    def __init__(self, client: SourceClient, reference: SourceReference, endpoint: str, *, has_token: bool) -> None:
        self._client = client
        self._reference = reference
        self._endpoint = endpoint
        self._has_token = has_token
        self._api = f"{endpoint}/api/models/{reference.repository}"

    async def list_files(self, commit: str | None) -> Listing:
        try:
            url = f"{self._api}/revision/{quote(commit or self._reference.reference, safe='')}"
            revision, _, _ = await self._client.read(url, wire.HubRevision, limit=wire.MAX_JSON)
            if commit not in {None, revision.sha}:
                raise SourceError(f"`{self._client.host}` answered with another commit than it was asked for.")
            files = await self._files(revision.sha)
        except SourceRefusedError as refused:
            raise SourceError(self._why_refused(refused)) from refused
        stated = next((tag.removeprefix(_LICENSE) for tag in revision.tags if tag.startswith(_LICENSE)), None)
        return Listing(revision.sha, files, stated)

    async def _files(self, commit: str) -> list[SourceFile]:
        url: str | None = f"{self._api}/tree/{commit}?recursive=true&expand=false"
        files: list[SourceFile] = []
        seen = 0
        for _ in range(wire.MAX_PAGES):
            if url is None:
                return files
            page, _, headers = await self._client.read(url, list[wire.HubEntry], limit=wire.MAX_JSON)
            seen += len(page)
            files += [self._file(commit, entry) for entry in page if entry.type == "file"]
            if len(files) > MAX_FILES or seen > wire.MAX_ENTRIES:
                raise _too_many(self._client.host)
            url = self._next(url, headers.get("Link", ""))
        raise _too_many(self._client.host)

    def _next(self, url: str, link: str) -> str | None:
        found = _NEXT.search(link)
        if found is None:
            return None
        following: str = urljoin(url, found[1])
        if not self._client.owns(following):
            raise SourceError(f"`{self._client.host}` continues its list of files on another host, which is not asked.")
        return following

    def _file(self, commit: str, entry: wire.HubEntry) -> SourceFile:
        url = f"{self._endpoint}/{self._reference.repository}/resolve/{commit}/{quote(entry.path)}"
        if entry.lfs is not None:
            return SourceFile(entry.path, entry.lfs.size, url, entry.lfs.oid)
        return SourceFile(entry.path, entry.size, url, None, entry.oid)

    def _why_refused(self, refused: SourceRefusedError) -> str:
        what, host, code = f"`{self._reference.repository}`", self._client.host, refused.headers.get("X-Error-Code")
        if code == "RevisionNotFound":
            return f"{what} at `{host}` has no revision `{self._reference.reference}`. Check what stands after the @."
        if code == "GatedRepo":
            return (
                f"{what} at `{host}` is gated: accept its terms there, and give the token of who did (`--token-file`)."
            )
        return _why_refused(what, host, has_token=self._has_token)


class RegistrySource:
    """An artifact in an OCI registry, one raw layer for each file."""

    def __init__(self, client: SourceClient, reference: SourceReference, endpoint: str, token: str | None) -> None:
        self._client = client
        self._reference = reference
        self._token = token
        self._base = f"{endpoint}/v2/{reference.repository}"
        client.challenge = self._answer_challenge

    async def list_files(self, commit: str | None) -> Listing:
        wanted, host = commit or self._reference.reference, self._client.host
        try:
            manifest, content, headers = await self._client.read(
                f"{self._base}/manifests/{wanted}", wire.OciManifest, limit=wire.MAX_MANIFEST, accept=_MANIFEST_TYPES
            )
        except SourceRefusedError as refused:
            what = f"`{self._reference.repository}:{wanted}`"
            raise SourceError(_why_refused(what, host, has_token=self._token is not None)) from refused
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest != (wanted if ":" in wanted else headers.get("Docker-Content-Digest", digest)):
            raise SourceError(f"`{host}` sent a manifest that does not match its digest.")
        if manifest.manifests is not None:
            raise SourceError(
                f"`{self._reference.repository}:{wanted}` is an index of several artifacts. Import one of them by its "
                f"digest: oci:{self._reference.host}/{self._reference.repository}@sha256:…"
            )
        layers = manifest.layers or []
        if len(layers) > MAX_FILES:
            raise _too_many(host)
        files = [self._file(layer) for layer in layers]
        return Listing(digest, files, (manifest.annotations or {}).get(_LICENSES_ANNOTATION))

    def _file(self, layer: wire.Descriptor) -> SourceFile:
        said = layer.annotations or {}
        path = next((said[name] for name in _PATH_ANNOTATIONS if name in said), None)
        is_packed = layer.media_type.endswith((".tar", "+gzip", "+zstd", ".gzip")) or ".tar" in layer.media_type
        if is_packed or said.get(_UNPACK_ANNOTATION) == "true":
            raise SourceError(
                f"A layer of this artifact is packed ({printable(layer.media_type)}). Only artifacts with one raw "
                "layer for each file can be imported: build it that way, or unpack and push it."
            )
        if path is None:
            raise SourceError(
                f"The layer {layer.digest} of this artifact has no file name. Import an artifact that is a model."
            )
        return SourceFile(path, layer.size, f"{self._base}/blobs/{layer.digest}", layer.digest.removeprefix("sha256:"))

    async def _answer_challenge(self, header: str) -> str:
        """A credential for the challenge. Asks for a token where the registry says, with our own if that is allowed."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "basic" and self._token is not None:
            return self._basic()
        asked = dict(_PARAMETER.findall(rest))
        realm = asked.get("realm", "")
        if scheme.lower() != "bearer" or urlsplit(realm).scheme not in {"http", "https"}:
            raise self._refused()
        if self._token is not None and not self._client.may_ask_for_token(realm):
            host = printable(urlsplit(realm).netloc)
            raise SourceError(
                f"`{self._client.host}` wants the token to be sent to `{host}`. Tokens are sent to the source's own "
                f"host only, unless you allow another: `--token-host {host}`."
            )
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        login = self._basic() if self._token is not None else ""
        try:
            granted, _, _ = await self._client.read(url, wire.RegistryToken, limit=_TOKEN_LIMIT, authorization=login)
        except SourceRefusedError:
            raise self._refused() from None
        if (token := granted.token or granted.access_token) is None:
            raise self._refused()
        return f"Bearer {token}"

    def _basic(self) -> str:
        pair = self._token if self._token is not None and ":" in self._token else f"token:{self._token}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _refused(self) -> SourceError:
        what = f"`{self._reference.repository}`"
        return SourceError(_why_refused(what, self._client.host, has_token=self._token is not None))


def _why_refused(what: str, host: str, *, has_token: bool) -> str:
    if has_token:
        return f"`{host}` has no {what}, or does not show it with this token. Check both."
    return f"`{host}` has no {what}, or does not show it without a token (`--token-file`)."


def _too_many(host: str) -> SourceError:
    return SourceError(f"`{host}` lists more than {MAX_FILES:,} files, the maximum of a model.")
