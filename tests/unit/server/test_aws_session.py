"""Times in the answers of buckets."""

import pytest
from botocore.utils import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.storage.aws_session import parse_time


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28T05:00:00.000Z",
        "2026-11-28T05:00:00Z",
        "2026-11-28T05:00:00+02:00",
        "2026-11-28T05:00:00",
        "2026-11-28",
        "Sat, 28 Nov 2026 05:00:00 GMT",
        "Tue, 24 Nov 2026 05:00:00 GMT",
        1764306000,
        "1764306000",
    ],
)
def test_they_are_read_as_botocore_does(text: object) -> None:
    assert parse_time(text) == parse_timestamp(text)


@given(st.text() | st.none() | st.lists(st.text()))
def test_what_is_no_time_is_an_error_as_botocores(text: object) -> None:
    try:
        expected = parse_timestamp(text)
    except ValueError:
        with pytest.raises(ValueError, match="Invalid timestamp"):
            parse_time(text)
    else:
        assert parse_time(text) == expected
