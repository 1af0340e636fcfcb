"""Which model a person means: by id, by name in the own project, or as `owner/name` in the catalog."""

import uuid
from collections.abc import Iterable

from modelshare.cli.failures import CommandError
from modelshare.client import CatalogFilter, Client
from modelshare.wire.models import CatalogModel, ExtendedModel


def own_model(client: Client, text: str) -> ExtendedModel:
    """The project's model with this id or name. Raises CommandError."""
    if _is_id(text):
        return client.models.get(text)
    found = next((model for model in client.models.list() if model.name == text), None)
    if found is None:
        raise CommandError(f"You have no model `{text}`. `modelshare models list` shows those you have.")
    return found


def any_model(client: Client, text: str) -> str:
    """The id of a model of the project or the catalog. Raises CommandError, naming what to choose from."""
    if _is_id(text):
        return text
    owner, slash, name = text.rpartition("/")
    own = [model for model in client.models.list() if model.name == name and owner in {"", model.owned_by}]
    if own:
        return own[0].id
    shared = [model for model in client.catalog.list(CatalogFilter(q=name)) if model.name == name]
    if slash:
        return _only([model for model in shared if model.owner == owner], text)
    if shared:
        raise CommandError(f"You have no model `{name}`, but the catalog has {_names(shared)}. Say which one.")
    return _only(shared, text)


def _only(models: list[CatalogModel], text: str) -> str:
    if not models:
        raise CommandError(
            f"There is no model `{text}` in your project or the catalog. `modelshare catalog` shows what there is."
        )
    return models[0].id


def _names(models: Iterable[CatalogModel]) -> str:
    return ", ".join(f"`{model.owner}/{model.name}`" for model in models)


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
