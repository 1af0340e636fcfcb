"""Builds the owner's and the catalog's view of models from rows. Makes no queries."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from modelshare.server.registry import file_selection, licenses
from modelshare.server.registry.service import current, manifest_of, resolve, signature_view, version_view
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.server.sharing.rules import ModelFacts, allowed_tiers, status_of
from modelshare.server.sharing.search import Found
from modelshare.server.sharing.search.cards import CatalogCard, card_of
from modelshare.server.sharing.tables import RecallRow, ShareRow
from modelshare.server.sharing.tiers import TierRegistry
from modelshare.wire.models import (
    CatalogModel,
    CatalogModelDetail,
    CatalogPage,
    CatalogRole,
    ExtendedModel,
    FacetCount,
    License,
    Model,
    ModelChoice,
    ModelStatus,
)
from modelshare.wire.sharing import Audience, RecallNotice
from modelshare.wire.signers import Signature, SignatureState


class OwnModel(NamedTuple):
    """A model with its share and recall, for its owner."""

    model: ModelRow
    share: ShareRow | None = None
    recall: RecallRow | None = None


def facts_of(own: OwnModel) -> ModelFacts:
    """The model's properties that the rules use."""
    model, share, recall = own
    version = current(model)
    status = ModelStatus(version.status) if version else ModelStatus.UPLOADING
    return ModelFacts(
        status=status_of(status, model.active_endpoints),
        role=CatalogRole(share.role) if share else None,
        size_bytes=(version.size_bytes or 0) if version else 0,
        audience=Audience(share.audience) if share else None,
        is_recalled=recall is not None,
        lacks_signature=model.project.require_signature
        and version is not None
        and version.signature_state != SignatureState.VALID,
    )


def is_listed(own: OwnModel) -> bool:
    """Whether the model is in the catalog: it is shared and has a latest version."""
    return own.share is not None and resolve(own.model, None) is not None


def model_view(model: ModelRow) -> Model:
    """The form of OpenAI's model list."""
    return Model(id=str(model.id), created=model.created_at, owned_by=model.project.slug)


def notice(recall: RecallRow) -> RecallNotice:
    """The public part of a recall."""
    return RecallNotice(
        deadline=recall.deadline,
        reason=recall.reason,
        announced_at=recall.created_at,
        stopped_at=recall.stopped_at,
    )


def extended_view(own: OwnModel, *, card: bool = True) -> ExtendedModel:
    """The owner's view."""
    model, share, recall = own
    version = current(model)
    return ExtendedModel(
        **model_view(model).model_dump(),
        name=model.name,
        display_name=model.display_name,
        description=model.description,
        tags=model.tags,
        license=model.license,
        card=model.card if card else None,
        status=facts_of(own).status,
        status_reason=version.status_reason if version else None,
        format=version.format if version else None,
        size_bytes=version.size_bytes if version else None,
        architecture=version.architecture if version else None,
        family=version.family if version else None,
        parameters=version.parameters if version else None,
        context_length=version.context_length if version else None,
        quantization=version.quantization if version else None,
        task=version.task if version else None,
        file=file_selection.own_file(version) if version else None,
        choices=[_choice_view(choice) for choice in file_selection.choices(version)] if version else [],
        version=version.version if version else None,
        version_notes=version.notes if version else None,
        manifest_digest=version.manifest_digest if version else None,
        signature=signature_view(version) if version else Signature(),
        is_shared=share is not None,
        is_listed=is_listed(own),
        audience=Audience(share.audience) if share else None,
        catalog_role=CatalogRole(share.role) if share else None,
        shared_at=share.shared_at if share else None,
        deployment_count=share.deployment_count if share else 0,
        featured=share.featured if share else False,
        recall=notice(recall) if recall else None,
        warnings=_warnings(version) if version else [],
    )


def _warnings(version: VersionRow) -> list[str]:
    problem = version.signature_problem
    invalid = [f"The signature is invalid: {problem}. Sign it again with `modelshare sign`."] if problem else []
    return [*version.facts.get("warnings", ()), *invalid]


def _choice_view(choice: Mapping[str, Any]) -> ModelChoice:
    return ModelChoice(
        file=choice["file"],
        format=choice["format"],
        quantization=choice["quantization"],
        parameters=choice["parameters"] or None,
        context_length=choice["context_length"],
        size_bytes=choice["size"],
    )


def catalog_view(card: CatalogCard, tiers: TierRegistry) -> CatalogModel:
    """A card of the public catalog."""
    role = CatalogRole(card.role)
    shown = card._asdict() | {"id": str(card.id), "size_bytes": card.size_bytes or 0}
    signature = Signature(state=SignatureState(card.signature_state), signer=card.signer)
    return CatalogModel(**shown, signature=signature, catalog_role=role, allowed_tiers=allowed_tiers(role, tiers))


def catalog_detail(share: ShareRow, model: ModelRow, version: VersionRow, tiers: TierRegistry) -> CatalogModelDetail:
    """A model's page: with the manifest, and the other ready versions."""
    ready = [
        version_view(row).model_copy(update={"latest_note": None})  # for its owner only: it says what the owner can do
        for row in reversed(model.versions)
        if row.status == ModelStatus.READY
    ]
    return CatalogModelDetail(
        **catalog_view(card_of(share, model, version), tiers).model_dump(),
        card=model.card,
        license_details=_license_view(model.license),
        manifest=manifest_of(version),
        manifest_digest=version.manifest_digest or "",
        versions=ready,
        choices=[_choice_view(choice) for choice in file_selection.choices(version)],
    )


def _license_view(stated: str | None) -> License | None:
    found = licenses.describe(stated)
    return License(spdx=found.spdx, name=found.name, restricts_use=found.restricts_use) if found else None


def catalog_page(found: Found, tiers: TierRegistry) -> CatalogPage:
    """A page of cards, with counts."""
    return CatalogPage(
        data=[catalog_view(card, tiers) for card in found.cards],
        has_more=found.next_cursor is not None,
        next_cursor=found.next_cursor,
        total=found.total,
        total_is_exact=found.total_is_exact,
        corrected=found.corrected,
        facets=found.facets
        and {
            name: [FacetCount(value=value, count=count) for value, count in values]
            for name, values in found.facets.items()
        },
    )
