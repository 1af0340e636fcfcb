"""Sorted pages, in a time that hardly depends on the number of matches.

Few matches are all loaded and ranked. With more, the most deployed are found by levels of deployments, which entries
have as terms, and the most recently shared by their IDs. Other orders scan the entries in order, since with many
matches the next one is usually close; if it is not, the database sorts up to some thousands, and beyond that the scan
continues up to a limit of steps.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.paging import decode_cursor, encode_cursor
from modelshare.server.sharing.search import queries
from modelshare.server.sharing.search.queries import SORTED_BY, Place
from modelshare.server.sharing.search.ranking import Ranking
from modelshare.server.sharing.search.terms import LEVELS, Condition, Filters, Sort, Term, deployed

FEW: Final = 500
"""Up to this number, all matches are loaded."""
MANY: Final = 2_000
"""Up to this number, matches are sorted by the database."""
STEPS: Final = 2_500
"""Limit of a scan, for one page."""
FIRST_STEPS: Final = 500
"""Limit of the scan that is tried first: enough if every tenth model matches."""
_AIM: Final = 200
"""The number of matches that a level of deployments should have: enough for a page, and not too many."""
_BEYOND_FEW: Final = -1
"""Takes the place of the rank in the cursor of a page that was not ranked."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A search: query, filters, order and page."""

    filters: Filters = field(default_factory=Filters)
    sort: Sort = Sort.RELEVANCE
    limit: int = 50
    after: str | None = None
    facets: bool = False


class Cursor(NamedTuple):
    """The last entry of a page."""

    rank: int
    value: Any
    id: int

    @property
    def beyond_few(self) -> bool:
        return self.rank == _BEYOND_FEW


Page = tuple[list[int], str | None]
"""IDs of entries, and the next page's cursor."""


class _Found(NamedTuple):
    """Sorted places, one more than a page if there are more; and the place at which the search stopped early."""

    places: list[Place]
    came_to: Place | None = None


def read(spec: SearchQuery) -> Cursor | None:
    """The place at which the page starts. 400 for a cursor that is invalid for this order."""
    if not spec.after:
        return None
    kind = str if spec.sort is Sort.NAME else int
    return Cursor(*decode_cursor(spec.after, int, kind, int))


def ranked(columns: Mapping[str, Sequence[Any]], spec: SearchQuery, after: Cursor | None) -> Page:
    """A page of matches that are all loaded."""
    key, falls = SORTED_BY[spec.sort]
    ranking = Ranking(spec.filters.q if spec.sort is Sort.RELEVANCE else None)
    places = sorted(zip(map(ranking.rank, columns["name"]), columns[key], columns["id"], strict=True), reverse=falls)
    if after is not None:
        places = [place for place in places if (place < after if falls else place > after)]
    page = places[: spec.limit]
    cursor = encode_cursor(*page[-1]) if len(places) > spec.limit else None
    return [place[-1] for place in page], cursor


async def page(
    session: AsyncSession, wanted: Sequence[Condition], spec: SearchQuery, after: Cursor | None, first: Sequence[int]
) -> Page:
    """A page of more matches than are loaded. Relevance then means deployments. `first`: IDs of some matches."""
    order = _Order(session, wanted, spec, Place(after.value, after.id) if after else None)
    if spec.sort in {Sort.RELEVANCE, Sort.DEPLOYMENTS}:
        found = await order.most_deployed(first)
    elif spec.sort is Sort.RECENT:
        found = _Found(await order.newest(None, after.id if after else None))
    else:
        found = await order.walked()
    places, came_to = found
    if len(places) > spec.limit:
        came_to = places[spec.limit - 1]
    cursor = encode_cursor(_BEYOND_FEW, *came_to) if came_to else None
    return [place.id for place in places[: spec.limit]], cursor


@dataclass(frozen=True, slots=True)
class _Order:
    """The matches after a place."""

    session: AsyncSession
    wanted: Sequence[Condition]
    spec: SearchQuery
    start: Place | None

    @property
    def limit(self) -> int:
        """One more than a page, to know whether there is another."""
        return self.spec.limit + 1

    async def most_deployed(self, first: Sequence[int]) -> _Found:
        """Sorted by deployments, then most recently shared first. `first`: IDs of the matches that were shared
        first."""
        start = self.start
        if start is not None and start.value <= 0:
            return _Found(await self.newest(deployed(LEVELS[0]), start.id))
        places, is_all = await self._above(first)
        if len(places) >= self.limit:
            return _Found(places[: self.limit])
        if not is_all:  # a level has too few and the next one too many: scan, since the matches are close together
            return await self.walked()
        rest = await self.newest(deployed(LEVELS[0]), None, self.limit - len(places))
        return _Found(places + rest)

    async def newest(self, but: Term | None, before: int | None, limit: int | None = None) -> list[Place]:
        """Sorted by the time of sharing, newest first."""
        ids = await queries.newest(self.session, self.wanted, self.spec.filters, but, before, limit or self.limit)
        return [Place(id_ if but is None else 0, id_) for id_ in ids]

    async def _above(self, first: Sequence[int]) -> tuple[list[Place], bool]:
        """Returns sorted matches after the place that reach a level of deployments, if possible enough for a page; and
        whether these are all matches with deployments.

        The first level tried is one that some hundreds reach, if deployments do not depend on the query.
        """
        levels = [level for level in LEVELS if self.start is None or level <= self.start.value]
        at = len(levels) - 1
        if self.start is None:
            usual = await queries.deployments_at(self.session, _AIM, self.wanted, first)
            at = max(bisect_right(LEVELS, usual) - 1, 0)
        found = await self._reaching(levels, at)
        if found is None:
            for higher in range(at + 1, len(levels)):
                fewer = await self._reaching(levels, higher)
                if fewer is not None:
                    return fewer, False
            return [], False
        while len(found) < self.limit and at > 0:
            at -= 1
            more = await self._reaching(levels, at)
            if more is None:
                return found, False
            found = more
        return found, True

    async def _reaching(self, levels: Sequence[int], at: int) -> list[Place] | None:
        """Sorted matches after the place with at least this many deployments; None if there are too many."""
        but = deployed(LEVELS[len(levels)]) if len(levels) < len(LEVELS) else None
        wanted = [*self.wanted, (deployed(levels[at]),)]
        rows = await queries.deployed(self.session, wanted, self.spec.filters, but, FEW + 1)
        if len(rows) > FEW:
            return None
        return sorted((place for place in rows if self.start is None or place < self.start), reverse=True)

    async def walked(self) -> _Found:
        """Finds the page by a scan, whatever the order."""
        places, came_to = await self._walk(FIRST_STEPS)
        if len(places) >= self.limit or came_to is None:
            return _Found(places, came_to)
        if await queries.count(self.session, self.wanted, MANY + 1) > MANY:
            return await self._walk(STEPS)
        spec = self.spec
        return _Found(await queries.first(self.session, self.wanted, spec.filters, spec.sort, self.start, self.limit))

    async def _walk(self, steps: int) -> _Found:
        spec = self.spec
        walk = await queries.walk(
            self.session, self.wanted, spec.filters, spec.sort, self.start, steps=steps, limit=self.limit
        )
        return _Found(walk.found, walk.came_to)
