"""Updates catalog entries, in the same transaction as the change of the model; rebuilds those of an older form."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.background import Loop
from modelshare.server.db import Database
from modelshare.server.outages import outage_of
from modelshare.server.registry.service import MODELS_TOPIC, USAGE_TOPIC
from modelshare.server.sharing.search import queries
from modelshare.server.sharing.search.terms import CatalogFacts, terms_of
from modelshare.server.sharing.topics import SHARES_TOPIC
from modelshare.wire.sharing import Audience

log = structlog.get_logger()

FORM: Final = 1
"""The form of entries, raised with every change of `entry_of` or of what it calls; a test notices.

It is a term, and not a column, so that a process of another version that rewrites an entry overwrites it. A new form
needs a migration that adds the index of those before it (`tables.BEFORE_FORM`). It only adds terms: the version before
searches by its own until it is gone.
"""
_AT_ONCE: Final = 50
"""Models per transaction; their other changes wait for it."""
_TOPICS: Final = (MODELS_TOPIC, USAGE_TOPIC, SHARES_TOPIC)


def follow_changes(database: Database) -> None:
    """Indexes every model whose versions, share or usage a transaction changes, before that commits."""

    async def changed(session: AsyncSession, model_id: str) -> None:
        await index(session, uuid.UUID(model_id))

    for topic in _TOPICS:
        database.before_commit(topic, changed)


async def index(session: AsyncSession, model_id: uuid.UUID) -> None:
    """Updates the model's entry from its rows; call it with the model locked.

    A model that is not shared has none: the entry is deleted with the share.
    """
    source = await queries.entry_source(session, model_id)
    if source is None:
        return
    shown_to = await queries.shown_to_projects(session, model_id) if source.audience == Audience.TARGETED else ()
    await queries.write_entry(session, model_id, entry_of(source, shown_to))


def entry_of(source: Row[*tuple[Any, ...]], shown_to: Sequence[str]) -> dict[str, str | int | bool | None]:
    """The columns of the entry."""
    facts = CatalogFacts(
        project_id=source.project_id,
        owner=source.owner,
        audience=source.audience,
        shown_to=shown_to,
        role=source.role,
        name=source.name,
        display_name=source.display_name,
        description=source.description,
        tags=source.tags,
        license=source.license,
        format=source.format,
        architecture=source.architecture,
        family=source.family,
        parameters=source.parameters or 0,
        context_length=source.context_length or 0,
        deployment_count=source.deployment_count,
    )
    return {
        # A model without a ready version keeps its entry, and so its position, but has no terms to find it by.
        "terms": f" {' '.join((f'_form{FORM}', *(terms_of(facts) if source.version else ())))} ",
        "deployment_count": source.deployment_count,
        "parameters": facts.parameters,
        "context_length": facts.context_length,
        "name": source.name.lower(),
        "family": facts.family,
        "license": facts.license,
        "architecture": facts.architecture,
        "format": facts.format,
        "role": facts.role,
        "tags": "\n".join(dict.fromkeys(tag for tag in facts.tags if "\n" not in tag)),
        "is_learned": False,
    }


class Rebuilder:
    """Rebuilds entries that a process of an older version has written, or has not written.

    All of them at the start, and those of older processes that still run as soon as they notify of their changes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_first = True
        self._failed = set[uuid.UUID]()
        """Models that cannot be indexed."""
        self.loop = Loop("rebuild catalog entries of an older form", self.run, every=60.0, rest=1.0)
        self.loop.wake()
        for topic in _TOPICS:
            database.subscribe(topic, self.loop.wake)

    async def run(self) -> None:
        """Rebuilds until nothing is left but what others have locked, which is left to the next round."""
        after, count = 0, 0
        while True:
            async with self._database.read() as session:
                found = await queries.outdated(session, after, _AT_ONCE)
            if not found:
                break
            count += await self._rebuild([model_id for _, model_id in found])
            after = found[-1][0]
        while self._is_first:
            async with self._database.read() as session:
                missing = await queries.without_entry(session, _AT_ONCE + len(self._failed))
            written = await self._rebuild(missing)
            count += written
            self._is_first = written > 0
        if count:
            log.info("rebuilt catalog entries of an older version", entries=count)

    async def _rebuild(self, ids: Collection[uuid.UUID]) -> int:
        """Indexes these models; returns how many. One that cannot be indexed holds up no other."""
        ids = [each for each in ids if each not in self._failed]
        try:
            async with self._database.write() as session:
                free = await queries.lock_models(session, ids)
                for model_id in free:
                    await index(session, model_id)
            return len(free)
        except Exception as error:
            if outage_of(error) is not None:
                raise
            if len(ids) > 1:
                return sum([await self._rebuild([each]) for each in ids])
            log.warning("a model cannot be added to the catalog's index", model=str(ids[0]), exc_info=error)
            self._failed.update(ids)
            return 0
