import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web.messages import humanize_error

SENTENCES = st.lists(st.sampled_from(["It failed.", "Why?", "Version 1.0.0 is there.", "Set 1.2 GB free!"]), min_size=1)


def test_a_route_of_the_api_is_not_said_to_people() -> None:
    assert humanize_error("There is no such model. GET /v1/models lists yours.") == "There is no such model."
    assert humanize_error("It ended. Make one with POST /v1/keys; copy it. Try again.") == "It ended. Try again."


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("`role`: Input should be 'deployable' or 'shared'.", "`role`: Choose 'deployable' or 'shared'."),
        ("`limit`: Input should be greater than 0.", "`limit`: This must be greater than 0."),
        ("`q`: String should have at most 200 characters.", "`q`: Use at most 200 characters."),
    ],
)
def test_a_form_is_spoken_of_as_people_see_it(message: str, said: str) -> None:
    assert humanize_error(message) == said


def test_a_message_that_says_nothing_else_stays() -> None:
    assert humanize_error("Ask GET /v1/models/{id} what is missing.") == "Ask GET /v1/models/{id} what is missing."


@given(SENTENCES, st.integers(0, 9))
def test_every_other_sentence_stays(sentences: list[str], place: int) -> None:
    with_route = [*sentences]
    with_route.insert(place, "DELETE /v1/models/{id} removes it.")
    assert humanize_error(" ".join(with_route)) == " ".join(sentences)
    assert humanize_error(" ".join(sentences)) == " ".join(sentences)
