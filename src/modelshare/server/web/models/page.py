"""A model's page: status, versions, files and description."""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Form, Response

from modelshare.server.endpoints import deployment_stats, recalls
from modelshare.server.errors import InvalidRequestError
from modelshare.server.fleet import version_deletion
from modelshare.server.http import ModelId
from modelshare.server.hub.oci import service as oci
from modelshare.server.paging import Paging
from modelshare.server.registry import held, versions
from modelshare.server.registry import service as registry
from modelshare.server.registry.storages import keeping
from modelshare.server.router import usage
from modelshare.server.sharing import service as sharing
from modelshare.server.sharing.presenters import OwnModel, extended_view
from modelshare.server.web import markdown
from modelshare.server.web.context import ModelsPage, ProjectContext
from modelshare.server.web.pages import PageRoute, parse_form
from modelshare.wire.models import ExtendedModel, KeptFile, ModelPatch, StoredBytes, VersionPatch
from modelshare.wire.usage import ModelUsageRow

router = APIRouter(prefix="/dashboard/{project}/models/{model_id}", route_class=PageRoute, include_in_schema=False)
Text = Annotated[str, Form()]
Stored = Annotated[str, Form(alias="bytes")]
_LISTED_FILES = 200
_USAGE_DAYS: Final = 30
_LISTED_USERS: Final = 20
"""Rows of the table of who uses it."""
_STORED_BYTES: Final = (("", "Choose…"), ("keep", "Keep them there"), ("delete", "Delete them"))


@dataclass(frozen=True, kw_only=True)
class ModelContext(ProjectContext):
    """For a page of one model."""

    model_id: uuid.UUID

    @property
    def url(self) -> str:
        """The URL of the model's page."""
        return f"{self.root}/models/{self.model_id}"

    async def own(self) -> OwnModel:
        return await sharing.get(self.session, self.caller, self.model_id)

    async def model(self) -> ExtendedModel:
        """Without its card, which only its own page shows."""
        return extended_view(await self.own(), card=False)

    def back(self, message: str) -> Response:
        """Redirects to the model's page, which shows `message`."""
        return self.redirect(self.url, message)


async def _of_model(page: ModelsPage, model_id: ModelId) -> ModelContext:
    return ModelContext(**vars(page), model_id=model_id)


ModelPage = Annotated[ModelContext, Depends(_of_model)]


@router.get("")
async def model_page(page: ModelPage) -> Response:
    return page.render("dashboard/models/model.html", **await _shown(page), streamed=False)


@router.get("/events")
async def model_live(page: ModelPage) -> Response:
    async def whole(page: ModelContext) -> str:
        return page.fragment("dashboard/models/whole.html", **await _shown(page), streamed=True)

    return page.live(whole)


@router.get("/edit")
async def edit_page(page: ModelPage) -> Response:
    model = extended_view(await page.own())
    return page.render("dashboard/models/edit.html", model=model)


@router.post("/edit")
async def edit(
    page: ModelPage,
    name: Text = "",
    display_name: Text = "",
    description: Text = "",
    tags: Text = "",
    license: Text = "",  # noqa: A002 - the form's field
    card: Text = "",
) -> Response:
    """Empty fields clear the description; the name is required."""
    texts = {
        "name": name,
        "display_name": display_name,
        "description": description,
        "license": license,
        "card": card,
    }
    texts = {field: text.replace("\r\n", "\n").strip() for field, text in texts.items()}
    words = list(dict.fromkeys(word.strip() for word in tags.split(",") if word.strip()))
    patch = parse_form(ModelPatch, **texts, tags=words)
    patch = patch.model_copy(update={field: None for field, text in texts.items() if not text})
    await registry.edit(page.session, page.caller, page.model_id, patch, now=page.now)
    return page.back("Saved.")


@router.post("/versions/{version}/promote")
async def promote(page: ModelPage, version: str) -> Response:
    await versions.promote(page.session, page.caller, page.model_id, version, now=page.now)
    message = f"{version} is now the latest version. Endpoints that follow `latest` switch to it."
    return page.back(message)


@router.get("/versions/{version}/rollback")
async def roll_back_page(page: ModelPage, version: str) -> Response:
    own = await page.own()
    found = registry.version_of(own.model, version)
    model = extended_view(own, card=False)
    shown = registry.version_view(found)
    return page.render("dashboard/models/roll_back.html", model=model, version=shown)


@router.post("/versions/{version}/rollback")
async def roll_back(page: ModelPage, version: str) -> Response:
    before = registry.resolve(await registry.get(page.session, page.caller, page.model_id), None)
    instead = f", instead of {before.version}" if before else ""
    await versions.roll_back(page.session, page.caller, page.model_id, version, now=page.now)
    message = f"{version} is the latest version again{instead}. Endpoints that follow `latest` switch to it."
    return page.back(message)


@router.get("/versions/{version}/edit")
async def edit_version_page(page: ModelPage, version: str) -> Response:
    own = await page.own()
    shown = registry.version_view(registry.version_of(own.model, version))
    return page.render("dashboard/models/edit_version.html", model=extended_view(own, card=False), version=shown)


@router.post("/versions/{version}/edit")
async def edit_version(page: ModelPage, version: str, notes: Text = "") -> Response:
    text = notes.replace("\r\n", "\n").strip()
    patch = parse_form(VersionPatch, version_notes=text) if text else VersionPatch(version_notes=None)
    await versions.edit_version(page.session, page.caller, page.model_id, version, patch, now=page.now)
    return page.back("Saved.")


@router.get("/versions/{version}/delete")
async def delete_version_page(page: ModelPage, version: str) -> Response:
    preview = await version_deletion.preview(page.session, page.caller, page.model_id, version)
    model = await page.model()
    return page.render("dashboard/models/delete_version.html", model=model, preview=preview, stored_bytes=_STORED_BYTES)


@router.post("/versions/{version}/delete")
async def delete_version(page: ModelPage, version: str, stored: Stored = "") -> Response:
    kept = await version_deletion.delete(page.platform, page.caller, page.model_id, version, _choice(stored))
    async with page.platform.database.read() as session:
        is_left = await registry.find(session, page.caller, page.model_id) is not None
    return page.redirect(page.url if is_left else f"{page.root}/models", f"Version {version} deleted.{_kept(kept)}")


@router.post("/revalidate")
async def revalidate(page: ModelPage) -> Response:
    await versions.revalidate(page.session, page.caller, page.model_id, now=page.now)
    message = "Revalidation started. Its result appears here."
    return page.back(message)


@router.get("/delete")
async def delete_page(page: ModelPage) -> Response:
    own = await page.own()
    foreign = own.model.foreign_endpoints
    return page.render(
        "dashboard/models/delete.html",
        model=extended_view(own, card=False),
        foreign_endpoints=foreign,
        own_endpoints=own.model.active_endpoints - foreign,
        own_storages=await keeping.own_storages(
            page.session, page.caller.project, [version.id for version in own.model.versions]
        ),
        stored_bytes=_STORED_BYTES,
    )


@router.post("/delete")
async def delete(page: ModelPage, name: Text = "", stored: Stored = "") -> Response:
    """Requires the model's name as a confirmation."""
    model = await registry.get(page.session, page.caller, page.model_id)
    if name.strip() != model.name:
        raise InvalidRequestError(f"This model is named {model.name}. Type exactly that to delete it.", param="name")
    kept = await registry.delete(page.session, page.caller, page.model_id, now=page.now, stored=_choice(stored))
    return page.redirect(f"{page.root}/models", f"{name.strip()} deleted, with all its versions.{_kept(kept)}")


def _choice(stored: str) -> StoredBytes | None:
    if stored and stored not in set(StoredBytes):
        raise InvalidRequestError("Choose whether its files in your own storage are kept or deleted.", param="bytes")
    return StoredBytes(stored) if stored else None


def _kept(files: Sequence[KeptFile]) -> str:
    if not files:
        return ""
    return f" {'1 file is' if len(files) == 1 else f'{len(files)} files are'} kept in your storage."


async def _used_by(page: ModelContext) -> list[ModelUsageRow]:
    today = dt.datetime.fromtimestamp(page.now, dt.UTC).date()
    found = await usage.model_page(
        page.session,
        page.caller,
        page.model_id,
        ["project", "tier", "version"],
        (today - dt.timedelta(_USAGE_DAYS - 1), today),
        Paging(_LISTED_USERS),
        busiest_first=True,
    )
    return found.data


async def _shown(page: ModelContext) -> dict[str, Any]:
    """The context of the page and of its live part."""
    own = await page.own()
    model, version = own.model, registry.current(own.model)
    if model.card:
        await markdown.prepare(model.card)
    files = await registry.stored_files(page.session, version.id) if version else []
    latest = registry.resolve(model, None)
    return {
        "model": extended_view(own),
        "newest": registry.version_view(model.versions[-1]) if model.versions else None,
        "versions": [registry.version_view(row) for row in reversed(model.versions)],
        "held": await held.held_versions(page.session, model),
        "ready": [row.version for row in registry.ready(model)],
        "before_latest": [row.version for row in model.versions if latest and row.id < latest.id],
        "files": files[:_LISTED_FILES],
        "more_files": max(0, len(files) - _LISTED_FILES),
        "oci": await oci.form_of(page.session, model),
        "url": page.base_url,
        "used_by": await _used_by(page),
        "footprint": await deployment_stats.footprint(page.session, page.caller, page.model_id),
        "recall": await recalls.state(page.session, page.caller, page.model_id, page.policy),
    }
