import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.accounts import rules
from modelshare.server.accounts.rules import MemberRole
from modelshare.wire.keys import Scope


@given(st.emails())
def test_an_address_is_kept_in_lower_case_and_stays_so(email: str) -> None:
    cleaned = rules.clean_email(f"  {email.upper()} ")
    assert cleaned == cleaned.lower()
    assert rules.clean_email(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    ["", "ada", "@example.org", "ada@", "a@b@c", "a da@example.org", "ada@exa\u00a0mple.org", "ada@example.org\0",
     "ada\u202e@example.org", "a" * 243 + "@example.org", "ada@example.org\r\nBcc: eve"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="Invalid e-mail address"):
        rules.clean_email(text)


@pytest.mark.parametrize("name", ["Ada", "Åsa Öberg-O'Neil", "עדה לאבלייס", "محمد‌علی", "李小龙", "👩‍🔬", "a" * 200])
def test_names_of_the_world(name: str) -> None:
    assert rules.clean_name(f" {name}\n") == name


@pytest.mark.parametrize("name", ["", " ", "a" * 201, "A\0da", "A\nda", "Ada\u202eevil", "A\ud800", "A\u2028da"])
def test_names_that_would_do_harm(name: str) -> None:
    with pytest.raises(ValueError, match=r"A name must|not allowed in names"):
        rules.clean_name(name)


@given(st.text(max_size=400))
def test_a_password_is_taken_by_its_length_however_it_is_typed(text: str) -> None:
    normal = unicodedata.normalize("NFKC", text)
    try:
        rules.check_password(text, "ada@example.org")
    except ValueError:
        assert not 10 <= len(normal) <= 256
    else:
        assert 10 <= len(normal) <= 256
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert rules.normal_password(unicodedata.normalize(form, text)) == normal


@pytest.mark.parametrize(
    "password", ["Ada@Example.org", "ada@example.org", "x" * 9, "x" * 257, "x" * 10**6, "\ud800" * 10]
)
def test_passwords_that_will_not_do(password: str) -> None:
    with pytest.raises(ValueError, match="password"):
        rules.check_password(password, " ada@example.org")


def test_a_member_may_do_all_but_look_after_the_project() -> None:
    assert rules.scopes_of(MemberRole.OWNER) == frozenset()
    assert rules.scopes_of(MemberRole.MEMBER) == set(Scope) - {Scope.KEYS}
