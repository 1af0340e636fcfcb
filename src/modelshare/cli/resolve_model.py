"""Resolves a model argument: an ID, a name in the caller's project, or `owner/name` in the catalog."""

import uuid
from collections.abc import Iterable
from contextlib import suppress

from modelshare.cli.error_messages import CommandError
from modelshare.client import CatalogFilter, Client, InvalidRequestError, NotFoundError
from modelshare.wire.models import CatalogModel, ExtendedModel


def own_model(client: Client, text: str) -> ExtendedModel:
    """The project's model with this ID or name. Raises CommandError."""
    try:
        return client.models.get(text)
    except (NotFoundError, InvalidRequestError):
        what = "There is no such model in your project" if _is_id(text) else f"You have no model `{text}`"
        raise CommandError(f"{what}. `modelshare models list` lists your models.") from None


def own_version(client: Client, text: str) -> tuple[ExtendedModel, str]:
    """The project's model and the version that `MODEL@VERSION` means; the model's present one where none is named."""
    named, _, version = text.partition("@")
    model = own_model(client, named)
    wanted = version or model.version
    if wanted is None:
        raise CommandError(f"{model.name} has no version yet. Push one: `modelshare push PATH`.")
    return model, wanted


def any_model(client: Client, text: str) -> str:
    """The ID of a model in the project or the catalog.

    If there is none, raises CommandError with alternatives from the catalog.
    """
    if _is_id(text):
        return text
    if "/" in text:
        return _by_owner(client, text)
    try:
        return client.models.get(text).id
    except (NotFoundError, InvalidRequestError):
        shared = [model for model in client.catalog.list(CatalogFilter(q=text)) if model.name.lower() == text.lower()]
    if shared:
        raise CommandError(f"You have no model `{text}`, but the catalog has {_names(shared)}. Use the full name.")
    raise _unknown_model(text)


def _by_owner(client: Client, text: str) -> str:
    """The ID of the model named `owner/name`."""
    for find in (client.models.get, client.catalog.get):
        with suppress(NotFoundError, InvalidRequestError):
            return find(text).id
    raise _unknown_model(text)


def _unknown_model(text: str) -> CommandError:
    return CommandError(
        f"There is no model `{text}` in your project or the catalog. `modelshare catalog` lists the catalog."
    )


def _names(models: Iterable[CatalogModel]) -> str:
    return ", ".join(f"`{model.owner}/{model.name}`" for model in models)


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
