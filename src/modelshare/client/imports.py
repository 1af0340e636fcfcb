"""`/v1/imports`: models that the platform copies from Hugging Face Hubs and OCI registries."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from modelshare.client.call import Call, Paged, Resource, Transport, at, get, listed, post, sent
from modelshare.client.polling import poll
from modelshare.wire.base import PAGE_LIMIT_MAX, Page
from modelshare.wire.importing import Import, ImportCreate, ImportState

if TYPE_CHECKING:
    from modelshare.client.client import Client

BASE = "/v1/imports"
_UNDER_WAY = frozenset({ImportState.IMPORTING, ImportState.PROCESSING})


class Imports(Resource[Transport]):
    @sent
    def create(self, spec: ImportCreate) -> Call[Import]:
        """Starts an import, or returns the same one in progress. `wait_until_imported` waits for its end."""
        return post(BASE, Import, spec, repeatable=True)

    @listed
    def list(self, *, limit: int = PAGE_LIMIT_MAX) -> Call[Paged[Import]]:
        """Newest first."""
        return get(BASE, Page[Import], limit=limit)

    @sent
    def get(self, import_id: str) -> Call[Import]:
        """Its progress, and why it failed or what it waits for."""
        return get(at(BASE, import_id), Import)

    @sent
    def cancel(self, import_id: str) -> Call[Import]:
        """Deletes what has arrived. Raises ConflictError if all files have."""
        return post(at(BASE, import_id, "cancel"), Import, repeatable=True)


def wait_until_imported(client: "Client", import_id: str, watch: Callable[[Import], None]) -> Import:
    """The import, once it is ready, failed or cancelled. `watch` gets it after each poll."""

    def is_done(found: Import) -> bool:
        watch(found)
        return found.state not in _UNDER_WAY

    return poll(lambda: client.imports.get(import_id), is_done)
