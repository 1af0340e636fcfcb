"""Models, their versions, and the manifest that sharing exposes."""

from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal
from unicodedata import normalize

from pydantic import AfterValidator, Field

from modelshare.wire.base import Request, Response, UnixSeconds
from modelshare.wire.sharing import Audience, AudienceProject, ClaimLink, ClaimLinkWithToken, RecallNotice
from modelshare.wire.signers import Signature
from modelshare.wire.text import Line, Text, check_name

MODEL_NAME_PATTERN = r"^(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,94}[A-Za-z0-9_])?$(?!\n)"
"""The Hugging Face form: 1-96 of `[A-Za-z0-9_.-]`, a word character at both ends, no `--` and no `..`."""

ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN, max_length=96)]
Tag = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_name)]
VersionNotes = Annotated[Text, Field(max_length=4000)]
"""What its owner says of a version: what changed, what to mind."""
ModelFile = Annotated[Line, Field(min_length=1, max_length=1024), AfterValidator(partial(normalize, "NFC"))]
"""The path of a file that says which of several models is meant, in the form in which paths are pushed."""


class ModelStatus(StrEnum):
    UPLOADING = "uploading"
    PROCESSING = "processing"
    READY = "ready"
    ACTIVE = "active"
    """Ready, and at least one active endpoint uses it."""
    FAILED = "failed"


class CatalogRole(StrEnum):
    DEPLOYABLE = "deployable"
    """In the catalog; anybody may select it on `self_hosted` only."""
    SHARED = "shared"
    """Anybody may select it on every tier."""


class Model(Response):
    """A model in OpenAI's list form."""

    id: str
    object: Literal["model"] = "model"
    created: UnixSeconds
    owned_by: str


class ModelChoice(Response):
    """One of several models among a version's files, such as a quantization."""

    file: str
    """Names it, at an endpoint and at a push."""
    format: str
    quantization: str | None
    parameters: int | None
    context_length: int | None
    size_bytes: int
    """Of its weights."""


class ExtendedModel(Model):
    """The owner's view. The sharing fields are None or zero while the model is not in the catalog."""

    name: str
    display_name: str | None
    description: str | None
    tags: list[str]
    license: str | None
    card: str | None = None
    """Markdown; given when one model is read, left out of lists."""
    status: ModelStatus
    status_reason: str | None
    """Why processing failed, as a sentence with the remedy."""
    format: str | None
    size_bytes: int | None
    architecture: str | None
    family: str | None
    parameters: int | None
    context_length: int | None
    quantization: str | None
    task: str | None
    file: str | None = None
    """The file that is described and opened; the first, where the weights are several."""
    choices: list[ModelChoice] = Field(default_factory=list)
    """All models among the files, the one described first; empty where it is the only one."""
    version: str | None
    version_notes: str | None = None
    manifest_digest: str | None
    signature: Signature = Field(default_factory=Signature)
    """Of this version."""
    is_shared: bool
    is_listed: bool
    """Whether the catalog shows it. One that is shared is hidden while no version of it is ready, such as when its only
    one failed a check; role and counts stay."""
    audience: Audience | None = None
    catalog_role: CatalogRole | None
    shared_at: UnixSeconds | None
    deployment_count: int
    featured: bool
    recall: RecallNotice | None = None
    warnings: list[str] = Field(default_factory=list)


class SharedModel(ExtendedModel):
    """The answer to sharing."""

    link: ClaimLinkWithToken | None = None
    """The claim link that was asked for; its token is in this answer and nowhere else."""


class ModelPatch(Request):
    """Rename, or edit what people read; the manifest never changes."""

    name: ModelName | None = None
    display_name: Annotated[Line, Field(max_length=200)] | None = None
    description: Annotated[Text, Field(max_length=2000)] | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None
    license: Annotated[Line, Field(max_length=200)] | None = None
    card: Annotated[Text, Field(max_length=400_000)] | None = None


class Version(Response):
    object: Literal["model.version"] = "model.version"
    version: str
    status: ModelStatus
    status_reason: str | None
    is_latest: bool
    latest_note: str | None = None
    """Why it did not become the latest when it was ready, and what would make it the latest; None where it did."""
    version_notes: str | None = None
    """What its owner says of it."""
    size_bytes: int | None
    manifest_digest: str | None
    signature: Signature = Field(default_factory=Signature)
    signature_problem: str | None = None
    """Why its signature is invalid."""
    created_at: UnixSeconds


class VersionPatch(Request):
    """What may be edited of a version; its files and its manifest never change."""

    version_notes: VersionNotes | None


class VersionDeletion(Response):
    """What deleting a version would do; nothing was changed."""

    object: Literal["model.version_deletion"] = "model.version_deletion"
    version: str
    possible: bool
    reasons: list[str]
    """What stands in the way, and what to do about it."""
    frees_bytes: int
    """Bytes of the quota that it gives back: what no other version holds."""
    notes: list[str] = Field(default_factory=list)
    """What one might not expect."""


class UnsharePreview(Response):
    """What unsharing would do; nothing was changed."""

    object: Literal["model.unshare_preview"] = "model.unshare_preview"
    model: str
    keeps_serving: int
    """Active endpoints that go on serving, of all projects."""
    keeps_serving_other_projects: int
    stops_following: int = 0
    """Those of other projects that follow `latest` now: they stay at `stays_at`, and nothing pushed later reaches
    them."""
    stays_at: str | None = None
    """The latest version now."""
    stops_being_possible: list[str]
    removed: list[str]
    """Parts of the catalog footprint that go."""
    notes: list[str]
    """What one might not expect."""


class DeployingProject(Response):
    project: str
    """Public name."""
    endpoints: int


class CatalogFootprint(Response):
    """The owner's view of a model's footprint in the catalog."""

    object: Literal["model.catalog"] = "model.catalog"
    model: str
    is_shared: bool
    is_listed: bool
    """Whether the catalog shows it: false too while it is shared and no version is ready."""
    audience: Audience | None = None
    projects: list[AudienceProject] = Field(default_factory=list)
    """To whom a targeted share shows."""
    links: list[ClaimLink] = Field(default_factory=list)
    """Its claim links, newest first."""
    catalog_role: CatalogRole | None
    shared_at: UnixSeconds | None
    featured: bool
    deployment_count: int
    endpoints_by_tier: dict[str, int]
    staying_at: dict[str, int] = Field(default_factory=dict)
    """Active endpoints of other projects that follow `latest` and stay at this version, by version: the model is not
    shared with them any more."""
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


class CatalogModel(Response):
    """A card of the public catalog: the manifest's facts, never a place where weights lie."""

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
    """`targeted`: you see it because it was shared with your project; the public does not."""
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
    url: str | None
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
    """All models among the files of this version, its own first; empty where it is the only one."""


class FacetCount(Response):
    value: str
    count: int


class CatalogPage(Response):
    """A page of the catalog. One with fewer models than asked for may be followed by more: see `has_more`."""

    object: Literal["list"] = "list"
    data: list[CatalogModel]
    has_more: bool = False
    next_cursor: str | None = None
    total: int = 0
    """Models that fit, on all pages."""
    total_is_exact: bool = True
    """False where more fit than are counted: there are at least `total`, and of each facet's values at least `count`,
    taken from the models that were shared last."""
    corrected: str | None = None
    """What was searched instead, where nothing fits the words that were asked for."""
    facets: dict[str, list[FacetCount]] | None = None
    """By `family`, `license`, `architecture`, `format`, `role`, `tag`: the most frequent values first. By `parameters`
    and `context`: ranges, rising, such as `3B-8B` (at least 3,000,000,000 and less than 8,000,000,000 parameters),
    `8K-32K` (at least 8 x 1,024 and less than 32 x 1,024 tokens), and the last one `100B-`, without an end."""


class FeatureRequest(Request):
    """Whether the platform features the model in its catalog."""

    featured: bool
