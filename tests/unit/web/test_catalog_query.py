"""What URLs of the catalog ask for."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelshare.server.sharing.search import Sort
from modelshare.server.web.catalog.query import FACETS, PATH, CatalogQuery, words_of
from modelshare.wire.models import CatalogRole

WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=60)
RANGES = st.sampled_from(["", "0B-1B", "3B-8B", "100B-", "8K-32K", "1M-"])
QUERIES = st.builds(
    CatalogQuery,
    q=WORDS,
    family=WORDS,
    tag=WORDS,
    license=WORDS,
    architecture=WORDS,
    parameters=RANGES,
    context=RANGES,
    role=st.none() | st.sampled_from(CatalogRole),
    sort=st.sampled_from(Sort),
    project=WORDS,
    after=WORDS,
)


def read(url: str) -> CatalogQuery:
    parts = urlsplit(url)
    assert parts.path == PATH
    return CatalogQuery.model_validate(dict(parse_qsl(parts.query)))


@given(QUERIES)
def test_a_query_comes_back_from_its_url(query: CatalogQuery) -> None:
    assert read(query.url) == query


@given(QUERIES, st.sampled_from(["family", "tag", "license"]), WORDS.filter(bool))
def test_toggling_changes_one_filter_and_begins_anew(query: CatalogQuery, facet: str, value: str) -> None:
    toggled = read(query.toggled(facet, value))
    assert toggled.has(facet, value) != query.has(facet, value)
    assert toggled.after == ""
    changed = {facet: "", "after": ""}
    assert toggled.model_copy(update=changed) == query.model_copy(update=changed)


@given(QUERIES)
def test_without_filters_the_words_stay(query: CatalogQuery) -> None:
    bare = read(query.without())
    assert bare.active == []
    assert (bare.q, bare.sort, bare.project) == (query.q, query.sort, query.project)
    for name, _ in query.active:
        assert name not in dict(read(query.without(name)).active)


def test_roles_toggle_too() -> None:
    shared = read(CatalogQuery().toggled("role", "shared"))
    assert shared.role is CatalogRole.SHARED
    assert shared.toggled("role", "shared") == PATH


@pytest.mark.parametrize(
    ("parameters", "context", "wanted"),
    [
        ("3B-8B", "8K-32K", ((3 * 10**9, 8 * 10**9 - 1), (8192, 32767))),
        ("0B-1B", "1M-", ((0, 10**9 - 1), (1 << 20, None))),
        ("500M-", "", ((500 * 10**6, None), (None, None))),
    ],
)
def test_ranges_are_numbers(parameters: str, context: str, wanted: tuple[object, object]) -> None:
    query = CatalogQuery(parameters=parameters, context=context)
    assert (query.parameter_range, query.context_range) == wanted


@pytest.mark.parametrize("text", ["3B", "B-3", "3-8", "3B-8B-9B", "٣B-8B", "3b-8b", "9999999B-"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="range such as"):
        CatalogQuery(parameters=text)


@pytest.mark.parametrize(
    ("facet", "value", "words"),
    [
        ("parameters", "3B-8B", "3B to 8B"),
        ("parameters", "0B-1B", "under 1B"),
        ("context", "1M-", "1M or more"),
        ("role", "deployable", "self-hosted only"),
        ("family", "3B-8B", "3B-8B"),
        ("tag", "x" * 500, "x" * 120 + "…"),
    ],
)
def test_values_in_words(facet: str, value: str, words: str) -> None:
    assert facet in FACETS
    assert words_of(facet, value) == words
