"""Builds API views of endpoints from rows. Makes no queries."""

from pydantic import ValidationError

from modelshare.server.endpoints import version_choice
from modelshare.server.endpoints.policy import LiveCounts
from modelshare.server.endpoints.tables import EndpointRow
from modelshare.server.registry import file_selection
from modelshare.server.registry.file_selection import FileSelection
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing.presenters import notice
from modelshare.wire.base import Page
from modelshare.wire.endpoints import Endpoint, EndpointProgress, EndpointStatus

MODEL_GONE = "The model was deleted by its owner. Delete this endpoint and create one with another model."


def view(row: EndpointRow, base_url: str, live: LiveCounts | None = None) -> Endpoint:
    """An endpoint as its project sees it. `base_url`: the platform's URL for this client."""
    version = resolved(row)
    status, reason = EndpointStatus(row.status), row.status_reason or _stays(row, version)
    if row.model is None:
        status, reason = EndpointStatus.FAILED, MODEL_GONE
    return Endpoint(
        id=str(row.id),
        slug=row.slug,
        model=str(row.model_id) if row.model_id else None,
        model_name=served_name(row.model) if row.model else None,
        tier=row.tier,
        version=row.version or "latest",
        resolved_version=version.version if version else None,
        version_note=version_choice.note(row),
        file=row.file,
        status=status,
        status_reason=reason,
        progress=progress_of(row),
        is_active=row.is_active,
        base_url=f"{base_url}/{row.project_id}/{row.slug}/v1",
        recall=notice(row.recall) if row.recall else None,
        prefix_cache=live.prefix_cache if live else None,
        queue=live.queue if live else None,
        created_at=row.created_at,
    )


def progress_of(row: EndpointRow) -> EndpointProgress | None:
    """The stored progress; None also if it is invalid, which the reconciler repairs."""
    try:
        return EndpointProgress.model_validate(row.progress) if row.progress else None
    except ValidationError:
        return None


def resolved(row: EndpointRow) -> VersionRow | None:
    """The ready version that the endpoint should serve.

    An endpoint that follows the latest version stays at the last version that has the file it selects, and a signature
    where one is required.
    """
    wanted = version_choice.wanted(row)
    if wanted is None or _suits(row, wanted):
        return wanted
    if row.version is not None:
        return None
    earlier = [each for each in version_choice.choosable(row) if each.id < wanted.id and _suits(row, each)]
    return earlier[-1] if earlier else None


def _suits(row: EndpointRow, version: VersionRow) -> bool:
    has_file = file_selection.find(version, row.file) is not None
    return has_file and version_choice.signature_reason(row, version) is None


def serves(row: EndpointRow) -> FileSelection | None:
    """The model in that version that it serves."""
    version = resolved(row)
    return file_selection.find(version, row.file) if version else None


def _stays(row: EndpointRow, version: VersionRow | None) -> str | None:
    """Why it does not follow the latest version."""
    latest = version_choice.wanted(row) if row.version is None else None
    if version is None or latest is None or latest is version:
        return None
    if (reason := version_choice.signature_reason(row, latest)) is not None:
        return f"{reason.message} The endpoint stays at {version.version}. {reason.fix}"
    return (
        f"Version {latest.version} does not contain the model `{row.file}`, so the endpoint stays at "
        f"{version.version}. Choose another `file` to follow it."
    )


def listing(rows: list[EndpointRow], cursor: str | None, base_url: str) -> Page[Endpoint]:
    return Page.of([view(row, base_url) for row in rows], cursor)


def served_name(model: ModelRow) -> str:
    """The public `model` name in requests and responses."""
    return f"{model.project.slug}/{model.name}"
