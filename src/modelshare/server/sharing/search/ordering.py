"""Pages in an order, in a time that hardly depends on how many models fit.

All that fit are at hand: they are ranked. More fit: the most deployed are found by the levels of deployments that
entries have as terms, those shared last by their ids. Other orders are walked, since where many fit the next one is
often not far; if it is far, the database sorts some thousands, and of more the walk goes on for so many steps at most.
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
"""So many models are looked at."""
MANY: Final = 2_000
"""So many are sorted by the database."""
STEPS: Final = 2_500
"""Of a walk, for one page."""
FIRST_STEPS: Final = 500
"""Of a walk that is tried before anything else: enough where every tenth model fits."""
_AIM: Final = 200
"""So many are looked for at a level of deployments: enough for a page, and not too many."""
_BEYOND_FEW: Final = -1
"""Stands for the rank in a cursor of a page that was not ranked."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """Which page of what."""

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
"""Ids of entries, and the next page's cursor."""


class _Found(NamedTuple):
    """Places in their order, one more than a page if there are more, and where the search for them ended early."""

    places: list[Place]
    came_to: Place | None = None


def read(spec: SearchQuery) -> Cursor | None:
    """The place that the wish goes on from. 400 for what is no cursor of this order."""
    if not spec.after:
        return None
    kind = str if spec.sort is Sort.NAME else int
    return Cursor(*decode_cursor(spec.after, int, kind, int))


def ranked(columns: Mapping[str, Sequence[Any]], spec: SearchQuery, after: Cursor | None) -> Page:
    """A page of all that fit, which are here."""
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
    """A page where more fit than are looked at; beyond that bound relevance is deployments. `first`: ids of some."""
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
    """What fits, from a place on."""

    session: AsyncSession
    wanted: Sequence[Condition]
    spec: SearchQuery
    start: Place | None

    @property
    def limit(self) -> int:
        """One more than a page tells that there is another."""
        return self.spec.limit + 1

    async def most_deployed(self, first: Sequence[int]) -> _Found:
        """By deployments, those shared last first among equals. `first`: ids of those that were shared first."""
        start = self.start
        if start is not None and start.value <= 0:
            return _Found(await self.newest(deployed(LEVELS[0]), start.id))
        places, is_all = await self._above(first)
        if len(places) >= self.limit:
            return _Found(places[: self.limit])
        if not is_all:  # nothing between a level with hardly any and one with too many: they stand close together
            return await self.walked()
        rest = await self.newest(deployed(LEVELS[0]), None, self.limit - len(places))
        return _Found(places + rest)

    async def newest(self, but: Term | None, before: int | None, limit: int | None = None) -> list[Place]:
        """By the time of sharing."""
        ids = await queries.newest(self.session, self.wanted, self.spec.filters, but, before, limit or self.limit)
        return [Place(id_ if but is None else 0, id_) for id_ in ids]

    async def _above(self, first: Sequence[int]) -> tuple[list[Place], bool]:
        """Sorted, those from the place on that reach a level of deployments, enough for a page if there are; whether
        there is nothing between them and those without any.

        The first look is at the level that some hundreds reach if deployments have nothing to do with what is asked.
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
        """Sorted, those from the place on with at least so many deployments; None where too many have."""
        but = deployed(LEVELS[len(levels)]) if len(levels) < len(LEVELS) else None
        wanted = [*self.wanted, (deployed(levels[at]),)]
        rows = await queries.deployed(self.session, wanted, self.spec.filters, but, FEW + 1)
        if len(rows) > FEW:
            return None
        return sorted((place for place in rows if self.start is None or place < self.start), reverse=True)

    async def walked(self) -> _Found:
        """By whatever the order is."""
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
