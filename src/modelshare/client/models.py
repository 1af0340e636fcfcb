"""`/v1/models`: the project's models, their versions, and sharing."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

from pydantic_core import from_json

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.client.usage import days
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.held import HeldOpen, HeldVersion
from modelshare.wire.models import (
    BomFormat,
    CatalogFootprint,
    Deletion,
    Download,
    ExtendedModel,
    Manifest,
    ModelPatch,
    SharedModel,
    StoredBytes,
    UnsharePreview,
    Version,
    VersionDeletion,
    VersionPatch,
)
from modelshare.wire.registering import ModelRegister, Registered
from modelshare.wire.sharing import Recall, RecallRequest, ShareRequest, ToLink, WeightsDeletion
from modelshare.wire.uploads import Upload, VersionOpen
from modelshare.wire.usage import ModelUsageRow

BASE = "/v1/models"
ModelColumn = Literal["day", "project", "tier", "version"]
ALL_MODEL_COLUMNS: tuple[ModelColumn, ...] = ("day", "project", "tier", "version")
DEFAULT_AUDIENCE = ShareRequest()


class Models(Resource[Transport]):
    """`model_id` may be an id, `owner/name`, or the name of one of the project's own models."""

    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[ExtendedModel]]:
        """All models of the project, newest first; `limit` is the page size of one request."""
        return get(BASE, Page[ExtendedModel], extended="true", limit=limit)

    @sent
    def get(self, model_id: str) -> Call[ExtendedModel]:
        return get(at(BASE, model_id), ExtendedModel)

    @sent
    def update(self, model_id: str, changes: ModelPatch) -> Call[ExtendedModel]:
        """Renames a model or edits its card; fields that `changes` omits keep their value."""
        return patch(at(BASE, model_id), ExtendedModel, changes)

    @sent
    def delete(self, model_id: str, *, bytes: StoredBytes | None = None) -> Call[Deletion]:  # noqa: A002 - the contract's name
        """Raises ConflictError while active endpoints of other projects use it.

        If files of it are in a storage of your own, `bytes` has to say whether they are kept there, else
        InvalidRequestError. Returns those that are.
        """
        return _deleting(at(BASE, model_id), bytes)

    @sent
    def revalidate(self, model_id: str) -> Call[ExtendedModel]:
        """Reads and checks all files again, in the background."""
        return post(at(BASE, model_id, "revalidate"), ExtendedModel)

    @sent
    def share(self, model_id: str, to: ShareRequest = DEFAULT_AUDIENCE) -> Call[SharedModel]:
        """Makes the manifest visible to everyone, to named projects, or to projects that claim the returned link.

        Without an audience, an unshared model becomes public, and a shared one stays as it is. Sharing again with the
        same audience changes nothing, except that each request for a link creates a new one.
        """
        return post(at(BASE, model_id, "share"), SharedModel, to, repeatable=not isinstance(to.audience, ToLink))

    @sent
    def end_link(self, model_id: str, link_id: str) -> Call[None]:
        """Revokes a claim link. Projects that claimed it still see the model."""
        return delete(at(BASE, model_id, "links", link_id))

    @sent
    def recall(self, model_id: str, request: RecallRequest) -> Call[Recall]:
        """Unshares it now and stops the endpoints of other projects at the deadline. A deadline of None cancels it."""
        return post(at(BASE, model_id, "recall"), Recall, request)

    @sent
    def recall_state(self, model_id: str) -> Call[Recall]:
        """Progress of a recall: who still serves, and which machines have deleted the weights."""
        return get(at(BASE, model_id, "recall"), Recall)

    @sent
    def close_weight_deletion(self, model_id: str, deployment_id: str) -> Call[WeightsDeletion]:
        """Stops waiting for a machine to confirm that it deleted the weights; it may still do so."""
        return post(at(BASE, model_id, "weight-deletions", deployment_id, "close"), WeightsDeletion, repeatable=True)

    @sent
    def unshare(self, model_id: str) -> Call[ExtendedModel]:
        """Removes it from the catalog; existing endpoints keep serving. Raises NotFoundError if it is not shared."""
        return post(at(BASE, model_id, "unshare"), ExtendedModel)

    @sent
    def preview_unshare(self, model_id: str) -> Call[UnsharePreview]:
        """What unsharing would do. Changes nothing."""
        return post(at(BASE, model_id, "unshare"), UnsharePreview, repeatable=True, dry_run="true")

    @sent
    def footprint(self, model_id: str) -> Call[CatalogFootprint]:
        """The model's presence in the catalog, as its owner sees it: role, who deploys it and where, tokens served."""
        return get(at(BASE, model_id, "catalog"), CatalogFootprint)

    @listed
    def usage(
        self,
        model_id: str,
        *,
        group_by: Sequence[ModelColumn] = ALL_MODEL_COLUMNS,
        first: date | None = None,
        last: date | None = None,
        limit: int = PAGE_LIMIT_MAX,
    ) -> Call[Paged[ModelUsageRow]]:
        """How much all projects use it: sums per group, newest day first. Days as for a project's own usage."""
        columns = ",".join(group_by)
        page = Page[ModelUsageRow]
        return get(at(BASE, model_id, "usage"), page, group_by=columns, limit=limit, **days(first, last))

    @listed
    def versions(self, model_id: str) -> Call[Paged[Version]]:
        """Newest first."""
        return get(at(BASE, model_id, "versions"), Page[Version])

    @sent
    def hold(self, version: HeldOpen) -> Call[HeldVersion]:
        """Registers a version whose files stay on the machine of an agent that holds them. Safe to repeat."""
        return post("/v1/held-versions", HeldVersion, version, repeatable=True)

    @sent
    def open_version(self, model_id: str, version: VersionOpen) -> Call[Upload]:
        """Opens an upload session for a version of this model, or returns the open one of the same push."""
        return post(at(BASE, model_id, "versions"), Upload, version, repeatable=True)

    @sent
    def register(self, source: ModelRegister) -> Call[Registered]:
        """Publishes a model that lies in the project's bucket, where it lies; `modelshare.client.push.wait_until_ready`
        waits until it is read.

        The same files again are the same version. Raises InvalidRequestError if the bucket cannot be read.
        """
        return post(f"{BASE}/register", Registered, source, repeatable=True)

    @sent
    def promote(self, model_id: str, version: str) -> Call[ExtendedModel]:
        """Makes a ready version the latest; endpoints that follow `latest` switch to it."""
        return post(at(BASE, model_id, "versions", version, "promote"), ExtendedModel, repeatable=True)

    @sent
    def rollback(self, model_id: str, version: str) -> Call[ExtendedModel]:
        """Makes `version` the latest again. Raises ConflictError if it already is."""
        return post(at(BASE, model_id, "versions", version, "rollback"), ExtendedModel)

    @sent
    def update_version(self, model_id: str, version: str, *, version_notes: str | None) -> Call[Version]:
        """Edits a version's notes; None removes them."""
        return patch(at(BASE, model_id, "versions", version), Version, VersionPatch(version_notes=version_notes))

    @sent
    def manifest(self, model_id: str, version: str) -> Call[Manifest]:
        """The files of a ready version with their digests, and what was read from them."""
        return get(at(BASE, model_id, "versions", version, "manifest"), Manifest)

    @sent
    def manifest_file(self, model_id: str, version: str) -> Call[bytes]:
        """The manifest as it is stored: its SHA-256 is the version's `manifest_digest`."""
        return Call("GET", at(BASE, model_id, "versions", version, "manifest"), bytes, repeatable=True)

    @sent
    def download(self, model_id: str, version: str) -> Call[Download]:
        """Signed URLs of a version's files. `modelshare.client.pull.pull_model` downloads them."""
        return post(at(BASE, model_id, "versions", version, "download"), Download, repeatable=True)

    @sent
    def sign(self, model_id: str, version: str, signature: bytes) -> Call[Version]:
        """Stores a signature of the version (`modelshare.wire.signing.sign` makes one from its manifest)."""
        path = at(BASE, model_id, "versions", version, "signature")
        return Call("POST", path, Version.model_validate_json, repeatable=True, raw=signature)

    @sent
    def unsign(self, model_id: str, version: str) -> Call[None]:
        """Removes the version's signature. Raises NotFoundError if it has none."""
        return delete(at(BASE, model_id, "versions", version, "signature"))

    @sent
    def signature(self, model_id: str, version: str) -> Call[bytes]:
        """The version's signature: a `model.sig`. Raises NotFoundError if it has none."""
        return Call("GET", at(BASE, model_id, "versions", version, "signature"), bytes, repeatable=True)

    @sent
    def bom(self, model_id: str, version: str, *, format: BomFormat = BomFormat.CYCLONEDX) -> Call[dict[str, Any]]:  # noqa: A002 - the contract's name
        """What a ready version is made of: a CycloneDX document, or the fields of `wire.models.AnnexXii`."""
        path = at(BASE, model_id, "versions", version, "bom")
        return Call("GET", path, from_json, {"format": format}, repeatable=True)

    @sent
    def delete_version(
        self,
        model_id: str,
        version: str,
        *,
        bytes: StoredBytes | None = None,  # noqa: A002 - the contract's name
    ) -> Call[Deletion]:
        """Deletes a version, or cancels its upload. Raises ConflictError if it is the latest or in use.

        `bytes` is as of `delete`.
        """
        return _deleting(at(BASE, model_id, "versions", version), bytes)

    @sent
    def preview_delete_version(self, model_id: str, version: str) -> Call[VersionDeletion]:
        """What deleting a version would do. Changes nothing."""
        path = at(BASE, model_id, "versions", version)
        return Call("DELETE", path, VersionDeletion.model_validate_json, {"dry_run": "true"}, repeatable=True)


def _deleting(path: str, stored: StoredBytes | None) -> Call[Deletion]:
    return Call("DELETE", path, _deletion, {"bytes": stored})


def _deletion(content: bytes) -> Deletion:
    """Without content nothing was kept."""
    return Deletion.model_validate_json(content) if content else Deletion()
