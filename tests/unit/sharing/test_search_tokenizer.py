"""Words, terms, ranges, ranking and counts: pure."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.sharing.search.ranges import CONTEXT, PARAMETERS, Range, Scale
from modelshare.server.sharing.search.ranking import Ranking
from modelshare.server.sharing.search.spelling import distance, forms, nearest
from modelshare.server.sharing.search.terms import ANYBODY, CatalogFacts, Filters, Viewer, conditions, terms_of
from modelshare.server.sharing.search.tokenizer import LONGEST, MAX_ASKED, MAX_WORDS, asked, words

NUMBERS = st.integers(0, 10**13)
BOUNDS = st.none() | NUMBERS
FACTS = CatalogFacts(
    project_id="proj_a",
    owner="acme",
    audience="public",
    shown_to=(),
    role="deployable",
    name="Llama-3.1-8B_Instruct",
    display_name=None,
    description="Très bon modèle",
    tags=("chat", "日本語"),
    license="apache-2.0",
    format="gguf",
    architecture="LlamaForCausalLM",
    family="llama",
    parameters=8_000_000_000,
    context_length=131_072,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Llama-3.1-8B_Instruct", ["llama", "3", "1", "8", "b", "instruct"]),
        ("model000123", ["model", "000123"]),
        ("Café Straße ﬁne ①", ["cafe", "strasse", "fine", "1"]),
        ("日本語モデル", ["日", "本", "語", "モ", "デ", "ル"]),
        ("が か", ["が", "か"]),
        ("한국어 모델", ["한국어", "모델"]),
        ("مُوديل", ["موديل"]),
        ('" OR * NEAR(a, b) :* & | ! \x00 <script>', ["or", "near", "a", "b", "script"]),
        ("a" * 100, ["a" * LONGEST]),
        ("\x00\u202e%_", []),
        ("", []),
    ],
)
def test_words(text: str, wanted: list[str]) -> None:
    assert words(text) == wanted


@given(st.text())
def test_words_are_stable_plain_and_few(text: str) -> None:
    found = words(text)
    assert len(found) == len(set(found)) <= MAX_WORDS
    assert all(re.fullmatch(r"[^\W_]+", word) and len(word) <= LONGEST for word in found)
    for word in found:
        assert word in words(word), "what is asked for as it was found is found again"
    assert asked(text) == found[:MAX_ASKED]


@given(st.lists(st.text(alphabet="abcdefgh日本12", min_size=1, max_size=40), max_size=8))
def test_every_beginning_of_a_word_is_a_beginning_of_its_first_words(texts: list[str]) -> None:
    """Typing on narrows: what a prefix asks for begins the words of the whole."""
    whole = words(" ".join(texts))
    for text in texts:
        for length in range(1, len(text) + 1):
            assert all(any(word.startswith(part) for word in whole) for part in words(text[:length])[-1:])


@given(number=NUMBERS, low=BOUNDS, high=BOUNDS, scale=st.sampled_from([PARAMETERS, CONTEXT]))
def test_the_buckets_of_a_range_cover_it(number: int, low: int | None, high: int | None, scale: Scale) -> None:
    wanted = Range(low, high)
    covered = set(scale.covering(wanted)) & set(scale.terms(number))
    assert bool(covered) >= (number > 0 and number in wanted)


@given(number=NUMBERS)
def test_a_bucket_means_its_bounds(number: int) -> None:
    bucket = PARAMETERS.bucket(number)
    if number == 0:
        assert bucket is None
        return
    assert bucket is not None
    low, _, high = bucket.replace("B", "").partition("-")
    assert int(low) * 10**9 <= number < (int(high) * 10**9 if high else 10**14)


def test_terms() -> None:
    found = terms_of(FACTS)
    assert {"llama", "8", "b", "acme", "tres", "日", "__public"} <= set(found)
    assert len(found) == len(set(found))
    targeted = terms_of(replace(FACTS, audience="targeted", shown_to=("proj_b",)))
    assert {"__proj_a", "__proj_b", "__targeted"} <= set(targeted)
    assert "__public" not in targeted


HOSTILE = st.one_of(
    st.text(max_size=20), st.from_regex(r"_{0,2}(p?ublic|targeted|t?argeted|proj_\w{0,3})", fullmatch=True)
)


@given(name=HOSTILE, description=HOSTILE, tag=HOSTILE, family=HOSTILE)
def test_no_text_says_who_sees_an_entry(name: str, description: str, tag: str, family: str) -> None:
    facts = replace(FACTS, name=name, description=description, tags=[tag], family=family, license=tag)
    for audience in ("targeted", "public"):
        found = {term for term in terms_of(replace(facts, audience=audience)) if term.startswith("__")}
        assert found == ({"__public"} if audience == "public" else {"__targeted", "__proj_a"})


@pytest.mark.parametrize("q", ["%", "\x00", "--", "🙂"])
def test_without_a_word_nothing_fits(q: str) -> None:
    assert conditions(ANYBODY, Filters(q=q)) is None


def test_blank_words_and_no_bounds_ask_for_nothing() -> None:
    assert conditions(ANYBODY, Filters(q="  ")) == conditions(ANYBODY, Filters())
    assert conditions(ANYBODY, Filters(min_parameters=5, max_parameters=4)) is None
    assert len(conditions(Viewer(sees_all=True), Filters()) or []) == 1


@pytest.mark.parametrize(
    ("name", "query", "rank"),
    [
        ("qwen-4b", "Qwen 4B", 3),
        ("qwen-4b-chat", "qwen-4b", 2),
        ("my-qwen-4b", "4b qwen", 1),
        ("qwen", "qwen chat", 0),
        ("qwen", "", 0),
    ],
)
def test_ranking(name: str, query: str, rank: int) -> None:
    assert Ranking(query).rank(name) == rank


WORD = st.text(alphabet="abcde", min_size=4, max_size=12)


@given(
    WORD, st.integers(0, 12), st.sampled_from("abcdexyz"), st.sampled_from(["insert", "leave out", "replace", "swap"])
)
def test_one_slip_is_found_and_forgiven(word: str, at: int, letter: str, slip: str) -> None:
    at %= len(word)
    typed = {
        "insert": word[:at] + letter + word[at:],
        "leave out": word[:at] + word[at + 1 :],
        "replace": word[:at] + letter + word[at + 1 :],
        "swap": word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
    }[slip]
    assert distance(typed, word) == distance(word, typed) <= 1
    assert forms(typed) & forms(word)
    assert nearest(typed, {word, "zzzzzzzz"}, 3) == [word]


@given(WORD, WORD)
def test_distance_is_nought_for_the_same_alone(one: str, other: str) -> None:
    assert (distance(one, other) == 0) == (one == other)
    assert distance(one, other) <= max(len(one), len(other))
    assert distance(one[:2], other[:2]) <= 2
