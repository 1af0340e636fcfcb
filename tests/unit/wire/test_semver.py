"""Semantic versions: which are any, and which is higher."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelshare.wire.endpoints import EndpointPatch
from modelshare.wire.semver import SEMVER_PATTERN, is_release, precedence
from modelshare.wire.uploads import UploadOpen

RISING = [
    *("0.0.1", "0.9.9", "1.0.0-0", "1.0.0-2", "1.0.0-11", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta"),
    *("1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0-0a", "2.0.0"),
]
"""Section 11 of semver.org, and its neighbours."""
GOOD = [
    *("0.0.4", "1.1.2-prerelease+meta", "1.0.0--.123.ABC", "1.0.0+001.0-0", "1.0.0-0A.is.legal", "1.2.3----R-S.12.9"),
    *("99999999999999999999.999999999999999999.99999999999999999", "1.0.0-alpha0.valid", "2.0.0+build.1848"),
]
BAD = [
    *("1", "1.2", "1.2.3-0123", "1.0.0-01", "1.0.0-a..b", "1.0.0-", "1.0.0+", "01.1.1", "1.01.1", "1.1.01", "v1.0.0"),
    *("1.1\u0663.0", "1.0.0-\u0661", "1.0.0+a+b", "1.0.0\n", "\n1.0.0", " 1.0.0", "1.0.0 ", "1.0.0-rc_1", "", "latest"),
    *("1.0.0+a..b", "1.2.3.4", "-1.0.0", "1.0.0-é", "+1.0.0", "1.0.0-rc.", "1.2.3-.", "\uff11.0.0", f"1.0.{'9' * 64}"),
]


@pytest.mark.parametrize("version", [*RISING, *GOOD])
def test_what_is_a_version(version: str) -> None:
    assert EndpointPatch(version=version).version == version
    assert UploadOpen.model_validate({"name": "m", "version": version, "files": [{"path": "a", "size": 1}]}).version


@pytest.mark.parametrize("version", BAD, ids=ascii)
def test_what_is_none(version: str) -> None:
    with pytest.raises(ValidationError):
        UploadOpen.model_validate({"name": "m", "version": version, "files": [{"path": "a", "size": 1}]})
    if version != "latest":
        with pytest.raises(ValidationError):
            EndpointPatch(version=version)


@pytest.mark.parametrize(("lower", "higher"), list(itertools.pairwise(RISING)))
def test_precedence(lower: str, higher: str) -> None:
    assert precedence(lower) < precedence(higher)


def test_build_metadata_counts_for_nothing() -> None:
    assert precedence("1.0.0+b") == precedence("1.0.0") == precedence("1.0.0+a")
    assert is_release("1.0.0+a-b")
    assert not is_release("1.0.0-a+b")


def test_what_is_no_version_is_below_all() -> None:
    assert precedence("1.0.0-01") < precedence("0.0.0-0")
    assert not is_release("1.1\u0663.0")


@given(
    st.from_regex(re.compile(SEMVER_PATTERN), fullmatch=True), st.from_regex(re.compile(SEMVER_PATTERN), fullmatch=True)
)
def test_any_two_compare(one: str, other: str) -> None:
    assert one.isascii()
    assert (precedence(one) < precedence(other)) + (precedence(one) > precedence(other)) + (
        precedence(one) == precedence(other)
    ) == 1
