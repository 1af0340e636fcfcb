"""Every table of the schema, for migrations and tests."""

from sqlalchemy import MetaData

from modelshare.server import installation, jobs
from modelshare.server.accounts import tables as accounts
from modelshare.server.audit import tables as audit
from modelshare.server.audit.webhooks import tables as webhooks
from modelshare.server.db import Table
from modelshare.server.endpoints import tables as endpoints
from modelshare.server.fleet import tables as fleet
from modelshare.server.hub import tables as hub
from modelshare.server.hub.oci import tables as oci
from modelshare.server.registry import tables as registry
from modelshare.server.registry.imports import tables as imports
from modelshare.server.registry.moves import tables as moves
from modelshare.server.registry.storages import tables as storages
from modelshare.server.router import tables as router
from modelshare.server.sharing import tables as sharing
from modelshare.server.sharing.search import tables as search

MODULES = (
    *(
        accounts,
        audit,
        endpoints,
        fleet,
        hub,
        imports,
        installation,
        jobs,
        moves,
        oci,
        registry,
        router,
        search,
        sharing,
        storages,
        webhooks,
    ),
)
metadata: MetaData = Table.metadata


def is_ours(name: str | None, _kind: str, _parents: object) -> bool:
    """False for what a database has beside the tables' metadata: the catalog's index."""
    return name is None or not name.startswith(search.INDEX_NAMES)
