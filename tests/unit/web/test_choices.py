"""Questions whose options have fields of their own: no word that was typed is ever dropped."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.errors import InvalidRequestError
from modelshare.server.web import choices
from modelshare.server.web.choices import Choice, Field, Option

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
FORM = st.fixed_dictionaries(
    {},
    optional={
        "which": st.lists(st.sampled_from(["near", "far", "all", "odd", ""]), max_size=2),
        "street": st.lists(TEXT, max_size=2),
        "unit": st.lists(st.sampled_from(["km", "miles", ""]), max_size=2),
        "far": st.lists(TEXT, max_size=1),
        "boxes": st.lists(TEXT, max_size=3),
    },
)


@pytest.fixture(autouse=True)
def listed() -> Iterator[None]:
    """What a test makes is no form of ours."""
    before = list(choices.CHOICES)
    yield
    choices.CHOICES[:] = before


def question(otherwise: str | None = None) -> Choice:
    return Choice(
        "which",
        "Choose one.",
        (
            Option("near", "Near", (Field("street", "Street"),)),
            Option("far", "Far", (Field("far", "How far"), Field("unit", "Unit", untouched="km"))),
            Option("all", "All", (Field("boxes", "Boxes", many=True),)),
        ),
        otherwise,
    )


@given(FORM, st.sampled_from([None, "all"]))
def test_what_was_typed_is_either_taken_or_refused(form: dict[str, list[str]], otherwise: str | None) -> None:
    asked = question(otherwise)
    try:
        chosen = asked.resolve(form)
    except InvalidRequestError:
        return
    assert form.get("which", [""])[:1] in ([], [""], [chosen.value])
    mine = {each.name for each in asked.option(chosen.value).fields}
    for option in asked.options:
        for each in option.fields:
            typed = [value for value in form.get(each.name, []) if value.strip() not in {"", each.untouched}]
            assert not typed or each.name in mine


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "Choose one."),
        ({"which": ["near", "far"]}, "sent 2 times"),
        ({"which": ["odd"]}, "one of near, far, all"),
        ({"which": ["near"], "far": ["3"]}, "“How far” belongs to “Far”"),
        ({"which": ["near"], "unit": ["miles"]}, "“Unit” belongs to “Far”"),
        ({"which": ["near"], "boxes": ["a", "b"]}, "“Boxes” belongs to “All”"),
        ({"street": ["a"], "far": ["3"]}, "“How far” belongs to “Far”"),
        ({"which": ["near"], "street": ["a", "b"]}, "sent 2 times"),
        ({"which": ["near"], "street": ["a" * 100_001]}, "too long"),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(form: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        question().resolve(form)


def test_what_is_filled_in_says_which_option_is_meant() -> None:
    assert question().resolve({"street": [" Main "]}).text("street") == "Main"
    assert question().resolve({"which": ["near"], "unit": ["km"], "far": [" "]}).value == "near"
    assert question("all").resolve({}).value == "all"
    assert question("all").resolve({"unit": ["km"]}).value == "far", "a program need not name the option"
