"""Models, their versions, and the manifest that sharing exposes."""

from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal
from unicodedata import normalize

from pydantic import AfterValidator, Field

from modelshare.wire.agents import GrantFile
from modelshare.wire.base import Request, Response, UnixSeconds
from modelshare.wire.sharing import Audience, AudienceProject, ClaimLink, ClaimLinkWithToken, RecallNotice
from modelshare.wire.signers import Signature
from modelshare.wire.text import Line, Text, check_name

MODEL_NAME_PATTERN = r"^(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?$(?!\n)"
"""As on Hugging Face: 1-96 of `[A-Za-z0-9_.-]`, a word character at both ends, no `--` and no `..`."""

ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN, max_length=96)]
Tag = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_name)]
VersionNotes = Annotated[Text, Field(max_length=4000)]
"""The owner's notes on a version, such as what changed."""
ModelFile = Annotated[Line, Field(min_length=1, max_length=1024), AfterValidator(partial(normalize, "NFC"))]
"""The path of a file that selects one of several models, normalized (NFC) as pushed paths are."""


class ModelStatus(StrEnum):
    UPLOADING = "uploading"
    PROCESSING = "processing"
    READY = "ready"
    ACTIVE = "active"
    """Ready, and used by at least one active endpoint."""
    FAILED = "failed"


class CatalogRole(StrEnum):
    DEPLOYABLE = "deployable"
    """In the catalog; others may deploy it on `self_hosted` only."""
    SHARED = "shared"
    """Others may deploy it on every tier."""


class Model(Response):
    """A model as in OpenAI's model list."""

    id: str
    object: Literal["model"] = "model"
    created: UnixSeconds
    owned_by: str


class ModelChoice(Response):
    """One of several models among a version's files, such as a quantization."""

    file: str
    """The file that selects this model in an endpoint or a push."""
    format: str
    quantization: str | None
    parameters: int | None
    context_length: int | None
    size_bytes: int
    """Size of its weights."""


class ExtendedModel(Model):
    """A model as its owner sees it. The sharing fields are None or zero if the model is not in the catalog."""

    name: str
    display_name: str | None
    description: str | None
    tags: list[str]
    license: str | None
    card: str | None = None
    """Markdown; omitted in lists."""
    status: ModelStatus
    status_reason: str | None
    """Why processing failed and how to fix it."""
    format: str | None
    size_bytes: int | None
    architecture: str | None
    family: str | None
    parameters: int | None
    context_length: int | None
    quantization: str | None
    task: str | None
    file: str | None = None
    """The file that is described and opened; the first one if the weights are split."""
    choices: list[ModelChoice] = Field(default_factory=list)
    """All models among the files, the default one first; empty if there is only one."""
    version: str | None
    version_notes: str | None = None
    manifest_digest: str | None
    signature: Signature = Field(default_factory=Signature)
    """Of this version."""
    is_shared: bool
    is_listed: bool
    """Whether the catalog shows it. A shared model is hidden while no version of it is ready, for example because its
    only version failed a check; role and counts remain."""
    audience: Audience | None = None
    catalog_role: CatalogRole | None
    shared_at: UnixSeconds | None
    deployment_count: int
    featured: bool
    recall: RecallNotice | None = None
    warnings: list[str] = Field(default_factory=list)


class SharedModel(ExtendedModel):
    """The response to a share request."""

    link: ClaimLinkWithToken | None = None
    """The requested claim link; its token is returned only here."""


class ModelPatch(Request):
    """Renames a model or edits its descriptive fields; the manifest never changes."""

    name: ModelName | None = None
    display_name: Annotated[Line, Field(max_length=200)] | None = None
    description: Annotated[Text, Field(max_length=2000)] | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None
    license: Annotated[Line, Field(max_length=200)] | None = None
    card: Annotated[Text, Field(max_length=400_000)] | None = None


class ModelSource(Response):
    """Where the files of a version were imported from."""

    kind: str
    """`hf` or `oci`."""
    ref: str
    """As it was given to the import."""
    commit: str
    """The commit, or the digest of the manifest."""
    endpoint: str | None = None
    """Which URL was asked, if the import named another than the platform's default."""


class Version(Response):
    object: Literal["model.version"] = "model.version"
    version: str
    status: ModelStatus
    status_reason: str | None
    is_latest: bool
    latest_note: str | None = None
    """Why it did not become the latest when it was ready, and how to make it the latest; None if it did."""
    version_notes: str | None = None
    """The owner's notes."""
    size_bytes: int | None
    manifest_digest: str | None
    signature: Signature = Field(default_factory=Signature)
    signature_problem: str | None = None
    """Why its signature is invalid."""
    digests: Literal["platform", "holder", "owner"] = "platform"
    """Who vouches for the digests of its files: the platform, which has read all bytes, or only the machine that holds
    them, or their owner, who pushed them to a bucket of their own. Agents compare all of them."""
    source: ModelSource | None = None
    """Where its files were imported from."""
    created_at: UnixSeconds


class VersionPatch(Request):
    """The editable fields of a version; its files and its manifest never change."""

    version_notes: VersionNotes | None


class StoredBytes(StrEnum):
    """What happens to files in a storage of the project's own when their model is deleted."""

    KEEP = "keep"
    DELETE = "delete"


class KeptFile(Response):
    """A file of a deleted version that is still in the owner's storage, and no longer the platform's concern."""

    version: str
    path: str
    size: int
    sha256: str
    url: str
    """`s3://bucket/prefix/key`."""


class Deletion(Response):
    """The response to a deletion with `bytes=keep`."""

    object: Literal["model.deletion"] = "model.deletion"
    kept: list[KeptFile] = Field(default_factory=list)


class VersionDeletion(Response):
    """A preview of deleting a version; nothing is changed."""

    object: Literal["model.version_deletion"] = "model.version_deletion"
    version: str
    possible: bool
    reasons: list[str]
    """What prevents the deletion, and what to do about it."""
    frees_bytes: int
    """Bytes of the quota that would be freed: files that no other version uses."""
    notes: list[str] = Field(default_factory=list)
    """Further effects that one might not expect."""
    own_storages: list[str] = Field(default_factory=list)
    """URLs of the project's own storages that hold files of it: then `bytes` has to say what happens to those."""


class UnsharePreview(Response):
    """A preview of unsharing a model; nothing is changed."""

    object: Literal["model.unshare_preview"] = "model.unshare_preview"
    model: str
    keeps_serving: int
    """Active endpoints of all projects that continue to serve."""
    keeps_serving_other_projects: int
    stops_following: int = 0
    """Endpoints of other projects that follow `latest` now: they stay at `stays_at` and get no later versions."""
    stays_at: str | None = None
    """The latest version."""
    stops_being_possible: list[str]
    removed: list[str]
    """Catalog data that will be removed."""
    notes: list[str]
    """Further effects that one might not expect."""


class DeployingProject(Response):
    project: str
    """The project's public name."""
    endpoints: int


class CatalogFootprint(Response):
    """A model's presence in the catalog, as its owner sees it."""

    object: Literal["model.catalog"] = "model.catalog"
    model: str
    is_shared: bool
    is_listed: bool
    """Whether the catalog shows it; also false while it is shared but no version is ready."""
    audience: Audience | None = None
    projects: list[AudienceProject] = Field(default_factory=list)
    """The projects that a targeted model is shared with."""
    links: list[ClaimLink] = Field(default_factory=list)
    """Its claim links, newest first."""
    catalog_role: CatalogRole | None
    shared_at: UnixSeconds | None
    featured: bool
    deployment_count: int
    endpoints_by_tier: dict[str, int]
    staying_at: dict[str, int] = Field(default_factory=dict)
    """Active endpoints of other projects that follow `latest` but stay at this version because the model is no longer
    shared with them, by version."""
    deploying_projects: list[DeployingProject]
    tokens_served: int


class ManifestFile(Response):
    path: str
    size: int
    sha256: str


class Manifest(Response):
    """What names a version's bytes for ever: its files, and what was read from them."""

    name: str
    version: str
    files: list[ManifestFile]
    facts: dict[str, Any]
    license: str | None
    created: UnixSeconds
    total_bytes: int
    schema_version: int


class Download(Response):
    """The files of one version, by signed URLs that are valid for minutes. Ask again for new ones."""

    object: Literal["download"] = "download"
    model: str
    version: str
    manifest_digest: str
    files: list[GrantFile]
    expires_at: UnixSeconds


class CatalogModel(Response):
    """A catalog entry: facts from the manifest, but not where the weights are stored."""

    id: str
    object: Literal["catalog.model"] = "catalog.model"
    name: str
    display_name: str | None
    owner: str
    """The owning project's slug."""
    owner_name: str
    description: str | None
    tags: list[str]
    license: str | None
    architecture: str | None
    family: str | None
    format: str | None
    parameters: int | None
    context_length: int | None
    quantization: str | None
    task: str | None
    size_bytes: int
    version: str
    signature: Signature = Field(default_factory=Signature)
    audience: Audience = Audience.PUBLIC
    """`targeted`: you see it because it is shared with your project; the public does not."""
    catalog_role: CatalogRole
    allowed_tiers: list[str]
    deployment_count: int
    featured: bool
    shared_at: UnixSeconds


class License(Response):
    """What a licence's name stands for."""

    spdx: str | None
    """SPDX expression; None for a licence that SPDX does not list."""
    name: str
    restricts_use: bool | None
    """Whether it says what the model may not be used for; None where that is not known."""


class AnnexField(Response):
    number: str
    """As the annex counts: 1(a) to 2(c)."""
    title: str
    value: str | None
    """What the platform knows."""
    gap: str | None
    """Where it knows nothing: what to add, and where."""


class AnnexXii(Response):
    """What providers of AI systems are told of a model, after Annex XII of Regulation (EU) 2024/1689."""

    object: Literal["model.annex_xii"] = "model.annex_xii"
    model: str
    version: str
    manifest_digest: str
    fields: list[AnnexField]


class BomFormat(StrEnum):
    CYCLONEDX = "cyclonedx"
    """CycloneDX 1.6, as JSON."""
    ANNEX_XII = "annex-xii"
    """The eleven items of Annex XII of the EU AI Act."""


class CatalogModelDetail(CatalogModel):
    card: str | None
    license_details: License | None = None
    """None where no licence is stated."""
    manifest: dict[str, Any]
    manifest_digest: str
    versions: list[Version]
    choices: list[ModelChoice] = Field(default_factory=list)
    """All models among this version's files, the default one first; empty if there is only one."""


class FacetCount(Response):
    value: str
    count: int


class CatalogPage(Response):
    """A page of the catalog. It may have fewer models than requested and still be followed by more: see `has_more`."""

    object: Literal["list"] = "list"
    data: list[CatalogModel]
    has_more: bool = False
    next_cursor: str | None = None
    total: int = 0
    """Number of matching models on all pages."""
    total_is_exact: bool = True
    """False if more models match than are counted: then `total` and each facet's `count` are lower bounds, taken from
    the most recently shared models."""
    corrected: str | None = None
    """The corrected search words that were used, if nothing matches the original ones."""
    facets: dict[str, list[FacetCount]] | None = None
    """By `family`, `license`, `architecture`, `format`, `role`, `tag`: the most frequent values first. By `parameters`
    and `context`: ranges in ascending order, such as `3B-8B` (at least 3,000,000,000 and less than 8,000,000,000
    parameters), `8K-32K` (at least 8 x 1,024 and less than 32 x 1,024 tokens), and an open-ended last one, `100B-`."""


class FeatureRequest(Request):
    """Whether the platform features the model in its catalog."""

    featured: bool
