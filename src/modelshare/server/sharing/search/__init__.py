"""Searches the catalog: words, filters, sorting, pages and counts, limited to what the viewer may see.

`docs/decisions/0012-search.md` explains how and why.
"""

from modelshare.server.sharing.search.cards import CatalogCard
from modelshare.server.sharing.search.index import Rebuilder, follow_changes, index
from modelshare.server.sharing.search.ordering import SearchQuery
from modelshare.server.sharing.search.queries import Entry
from modelshare.server.sharing.search.service import Found, find, get
from modelshare.server.sharing.search.spelling_index import learn
from modelshare.server.sharing.search.terms import ANYBODY, Filters, Sort, Viewer

__all__ = [
    "ANYBODY",
    "CatalogCard",
    "Entry",
    "Filters",
    "Found",
    "Rebuilder",
    "SearchQuery",
    "Sort",
    "Viewer",
    "find",
    "follow_changes",
    "get",
    "index",
    "learn",
]
