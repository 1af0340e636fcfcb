import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.accounts import rules
from modelshare.server.ids import new_secret
from modelshare.wire.keys import Scope

moments = st.none() | st.integers(0, 100)
scopes = st.sets(st.sampled_from(Scope))


@given(st.integers(0, 100), moments, moments, moments)
def test_a_value_is_good_until_anything_ends_it(
    now: int, expires: int | None, revoked: int | None, value_expires: int | None
) -> None:
    good = now < rules.valid_until(expires_at=expires, revoked_at=revoked, value_expires_at=value_expires)
    over = any(end is not None and now >= end for end in (expires, value_expires))
    assert good == (revoked is None and not over)


@given(scopes, scopes)
def test_a_key_hands_out_no_more_than_it_may_do(own: set[Scope], wanted: set[Scope]) -> None:
    everything = set(Scope)
    assert rules.may_hand_out(own, wanted) == (
        (wanted or everything) <= (own or everything) and bool(wanted or not own)
    )


@pytest.mark.parametrize(
    ("address", "networks", "allowed"),
    [
        ("10.1.2.3", [], True),
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8"], False),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("2001:db8::1", ["2001:db8::/32"], True),
        ("not an address", ["10.0.0.0/8"], False),
    ],
)
def test_addresses(address: str, networks: list[str], allowed: bool) -> None:
    assert rules.is_allowed_from(address, networks) is allowed


def test_a_hint_gives_nothing_away() -> None:
    secret = new_secret("ms_acme-labs")
    hint = rules.hint(secret)
    assert hint.startswith("ms_acme-labs_")
    assert secret[-rules.RANDOM_LENGTH + 4 : -4] not in hint
    assert len(secrets.token_urlsafe(32)) == rules.RANDOM_LENGTH


@given(scopes)
def test_a_key_locked_to_an_endpoint_only_calls_it_unless_it_was_given_more(given_scopes: set[Scope]) -> None:
    assert rules.effective_scopes(given_scopes, None) == given_scopes
    assert rules.effective_scopes(given_scopes, "hello") == (given_scopes or {Scope.INFERENCE})
