"""`/v1/models`: the project's models, their versions, and sharing."""

from modelshare.client.call import Call, Paged, Resource, Transport, at, delete, get, listed, patch, post, sent
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.models import (
    CatalogFootprint,
    ExtendedModel,
    ModelPatch,
    SharedModel,
    UnsharePreview,
    Version,
    VersionDeletion,
    VersionPatch,
)
from modelshare.wire.sharing import Recall, RecallRequest, ShareRequest, ToLink, WeightsDeletion
from modelshare.wire.uploads import Upload, VersionOpen

BASE = "/v1/models"
NOT_SAID = ShareRequest()


class Models(Resource[Transport]):
    """A model is named by its id, as `owner/name`, or by its name alone."""

    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[ExtendedModel]]:
        """All models of the project; `limit` is how many one request fetches."""
        return get(BASE, Page[ExtendedModel], extended="true", limit=limit)

    @sent
    def get(self, model_id: str) -> Call[ExtendedModel]:
        return get(at(BASE, model_id), ExtendedModel)

    @sent
    def update(self, model_id: str, changes: ModelPatch) -> Call[ExtendedModel]:
        """Renames it, or edits its card; what `changes` leaves out stays."""
        return patch(at(BASE, model_id), ExtendedModel, changes)

    @sent
    def delete(self, model_id: str) -> Call[None]:
        """ConflictError while active endpoints of other projects use it."""
        return delete(at(BASE, model_id))

    @sent
    def revalidate(self, model_id: str) -> Call[ExtendedModel]:
        """Runs the server's processing again."""
        return post(at(BASE, model_id, "revalidate"), ExtendedModel)

    @sent
    def share(self, model_id: str, to: ShareRequest = NOT_SAID) -> Call[SharedModel]:
        """Makes its manifest visible: to everybody, to named projects, or to whoever claims the link in the answer.

        Where nothing is said, what is shared stays as it is, and what is not is for everybody. Sharing to the same
        audience once more changes nothing; each time a link is asked for there is a new one.
        """
        return post(at(BASE, model_id, "share"), SharedModel, to, repeatable=not isinstance(to.audience, ToLink))

    @sent
    def end_link(self, model_id: str, link_id: str) -> Call[None]:
        """Nobody claims by it any more; projects that did still see the model."""
        return delete(at(BASE, model_id, "links", link_id))

    @sent
    def recall(self, model_id: str, request: RecallRequest) -> Call[Recall]:
        """Unshares it now and stops the endpoints of other projects at the deadline; a deadline of None cancels."""
        return post(at(BASE, model_id, "recall"), Recall, request)

    @sent
    def recall_state(self, model_id: str) -> Call[Recall]:
        """Where a recall stands: who serves still, and which machines have deleted the weights."""
        return get(at(BASE, model_id, "recall"), Recall)

    @sent
    def close_weight_deletion(self, model_id: str, deployment_id: str) -> Call[WeightsDeletion]:
        """Waits no longer for a machine to confirm that it deleted the weights; it may still do so."""
        return post(at(BASE, model_id, "weight-deletions", deployment_id, "close"), WeightsDeletion, repeatable=True)

    @sent
    def unshare(self, model_id: str) -> Call[ExtendedModel]:
        """Takes it out of the catalog; endpoints that exist go on serving. NotFoundError where it is not shared."""
        return post(at(BASE, model_id, "unshare"), ExtendedModel)

    @sent
    def preview_unshare(self, model_id: str) -> Call[UnsharePreview]:
        """What unsharing would do; changes nothing."""
        return post(at(BASE, model_id, "unshare"), UnsharePreview, repeatable=True, dry_run="true")

    @sent
    def footprint(self, model_id: str) -> Call[CatalogFootprint]:
        """The owner's view of its catalog footprint: role, who deploys it and where, tokens served."""
        return get(at(BASE, model_id, "catalog"), CatalogFootprint)

    @listed
    def versions(self, model_id: str) -> Call[Paged[Version]]:
        """Newest first."""
        return get(at(BASE, model_id, "versions"), Page[Version])

    @sent
    def open_version(self, model_id: str, version: VersionOpen) -> Call[Upload]:
        """A new upload session for a version of this model, or the open one of the same push; see `uploads`."""
        return post(at(BASE, model_id, "versions"), Upload, version, repeatable=True)

    @sent
    def promote(self, model_id: str, version: str) -> Call[ExtendedModel]:
        """Makes a ready version the latest one; endpoints that follow `latest` change to it."""
        return post(at(BASE, model_id, "versions", version, "promote"), ExtendedModel, repeatable=True)

    @sent
    def rollback(self, model_id: str, version: str) -> Call[ExtendedModel]:
        """Goes back to `version`: it becomes the latest one. ConflictError where it is that already."""
        return post(at(BASE, model_id, "versions", version, "rollback"), ExtendedModel)

    @sent
    def update_version(self, model_id: str, version: str, *, version_notes: str | None) -> Call[Version]:
        """Edits a version's notes; None takes them away."""
        return patch(at(BASE, model_id, "versions", version), Version, VersionPatch(version_notes=version_notes))

    @sent
    def delete_version(self, model_id: str, version: str) -> Call[None]:
        """Deletes a version that is neither the latest nor in use, else ConflictError; cancels one under way."""
        return delete(at(BASE, model_id, "versions", version))

    @sent
    def preview_delete_version(self, model_id: str, version: str) -> Call[VersionDeletion]:
        """What deleting a version would do; changes nothing."""
        path = at(BASE, model_id, "versions", version)
        return Call("DELETE", path, VersionDeletion.model_validate_json, {"dry_run": "true"}, repeatable=True)
