"""Which requests with a cookie come from a page of the platform."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.http import is_same_origin

OWN = "https://models.example.org"


@pytest.mark.parametrize(
    ("site", "origin", "own_url", "same"),
    [
        ("same-origin", None, OWN, True),
        ("same-origin", "https://evil.example", OWN, True),  # a browser cannot say both
        ("same-site", OWN, OWN, False),
        ("cross-site", OWN, OWN, False),
        ("none", OWN, OWN, False),
        ("", OWN, OWN, False),
        (None, None, OWN, False),
        (None, "null", OWN, False),
        (None, "", OWN, False),
        (None, OWN, OWN, True),
        (None, OWN, f"{OWN}:443/sub/path", True),
        (None, "http://models.example.org", OWN, False),
        (None, "https://models.example.org:8443", OWN, False),
        (None, "https://models.example.org.evil.example", OWN, False),
        (None, "https://models.example.org@evil.example", OWN, False),
        (None, "http://127.0.0.1:8000", "http://127.0.0.1:8000", True),
        (None, "http://[::1]:8000", "http://[::1]:8000", True),
        (None, "https://models.example.org:port", OWN, False),
        (None, "http://[", OWN, False),
        (None, "null", "null", False),
    ],
)
def test_where_a_request_comes_from(site: str | None, origin: str | None, own_url: str, same: bool) -> None:
    assert is_same_origin(site=site, origin=origin, own_url=own_url) is same


@given(st.text())
def test_any_text_as_an_origin_is_no_error(origin: str) -> None:
    assert not is_same_origin(site=None, origin=origin, own_url=OWN)
