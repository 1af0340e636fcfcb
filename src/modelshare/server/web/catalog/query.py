"""Parses URLs of the catalog, and builds related ones: a filter more or less, the next page. Pure."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlencode

from pydantic import AfterValidator, ConfigDict, Field

from modelshare.server.sharing.search import Sort
from modelshare.wire.base import Request
from modelshare.wire.models import CatalogRole

PATH: Final = "/models/catalog"
FACETS: Final = {
    "family": "Family",
    "parameters": "Size",
    "context": "Context",
    "license": "Licence",
    "tag": "Tag",
    "role": "Available tiers",
    "format": "Format",
    "architecture": "Architecture",
}
"""Filters and their headings, in the order on the page."""
SORTS: Final = {
    Sort.RELEVANCE: "Best match",
    Sort.DEPLOYMENTS: "Most deployed",
    Sort.RECENT: "Newest",
    Sort.PARAMETERS: "Largest",
    Sort.NAME: "Name",
}
ROLES: Final = {CatalogRole.DEPLOYABLE: "self-hosted only", CatalogRole.SHARED: "every tier"}
"""Texts for the roles."""
_LONGEST: Final = 120
_RANGE: Final = re.compile(r"(\d{1,6}[KMB])-(\d{1,6}[KMB])?", re.ASCII)
_PARAMETERS: Final = {"K": 10**3, "M": 10**6, "B": 10**9}
_TOKENS: Final = {"K": 1024, "M": 1024**2, "B": 1024**3}


class RangeField(NamedTuple):
    """Both bounds are inclusive; None: no bound."""

    low: int | None = None
    high: int | None = None


def _checked_range(text: str) -> str:
    if text and not _RANGE.fullmatch(text):
        raise ValueError("Use a range such as 3B-8B, 8K-32K or 100B-")
    return text


_Value = Annotated[str, Field(max_length=300)]
_Range = Annotated[str, AfterValidator(_checked_range)]


class CatalogQuery(Request):
    """The parameters of the list's URL. Empty ones have no effect."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    q: Annotated[str, Field(max_length=200)] = ""
    family: _Value = ""
    parameters: _Range = ""
    """A bucket, such as `3B-8B`: at least 3 and less than 8 billion."""
    context: _Range = ""
    license: _Value = ""
    tag: _Value = ""
    role: CatalogRole | None = None
    format: _Value = ""
    architecture: _Value = ""
    sort: Sort = Sort.RELEVANCE
    project: _Value = Field("", alias="as")
    after: Annotated[str, Field(max_length=4096)] = ""

    @property
    def parameter_range(self) -> RangeField:
        return _range(self.parameters, _PARAMETERS)

    @property
    def context_range(self) -> RangeField:
        """In tokens."""
        return _range(self.context, _TOKENS)

    @property
    def active(self) -> list[tuple[str, str]]:
        """The active filters, by name and value."""
        return [(name, str(value)) for name in FACETS if (value := getattr(self, name))]

    @property
    def is_start(self) -> bool:
        """Whether this is the first page without any filter or query."""
        return not (self.q.strip() or self.active or self.after or self.sort is not Sort.RELEVANCE)

    @property
    def url(self) -> str:
        """The shortest equivalent URL."""
        return self._url()

    def has(self, facet: str, value: str) -> bool:
        return str(getattr(self, facet) or "") == value

    def toggled(self, facet: str, value: str) -> str:
        """URL of the first page with this value added, or removed if it is set."""
        return self._url(after="", **{facet: "" if self.has(facet, value) else value})

    def without(self, *facets: str) -> str:
        """URL of the first page without these filters, or without all filters if none is given."""
        return self._url(after="", **dict.fromkeys(facets or FACETS, ""))

    def searching(self, words: str) -> str:
        return self._url(after="", q=words)

    def beyond(self, cursor: str) -> str:
        """URL of the page that starts at the cursor."""
        return self._url(after=cursor)

    @property
    def first(self) -> str:
        return self._url(after="")

    def _url(self, **changes: str) -> str:
        """Without copying or validating, since a page has hundreds of URLs."""
        fields = {**self.__dict__, **changes}
        given = [("as" if name == "project" else name, value) for name, value in fields.items() if value]
        query = urlencode([each for each in given if each != ("sort", Sort.RELEVANCE)], errors="replace")
        return f"{PATH}?{query}" if query else PATH


def words_of(facet: str, value: str) -> str:
    """The text of a facet's value, shortened to a line."""
    if facet == "role":
        return next((words for role, words in ROLES.items() if role == value), value)
    if facet in {"parameters", "context"} and _RANGE.fullmatch(value):
        low, _, high = value.partition("-")
        if not high:
            return f"{low} or more"
        return f"under {high}" if not int(low[:-1]) else f"{low} to {high}"
    return value if len(value) <= _LONGEST else value[:_LONGEST] + "…"


def _range(text: str, units: Mapping[str, int]) -> RangeField:
    if not text:
        return RangeField()
    low, _, high = text.partition("-")
    return RangeField(_number(low, units), _number(high, units) - 1 if high else None)


def _number(text: str, units: Mapping[str, int]) -> int:
    return int(text[:-1]) * units[text[-1]]
