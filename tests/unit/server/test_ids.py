import re
import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.ids import new_id, new_project_id, new_secret, parse_uuid, secret_hash


def test_ids_are_version_7_and_sort_by_creation() -> None:
    before = time.time_ns() // 1_000_000
    made = [new_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert len(set(made)) == len(made)
    assert before <= made[0].int >> 80 <= made[-1].int >> 80 <= after
    stamps = [each.int >> 64 for each in made]
    assert stamps == sorted(stamps)


def test_project_ids() -> None:
    assert re.fullmatch(r"proj_[0-9a-f]{12}", new_project_id())
    assert new_project_id() != new_project_id()


def test_secrets_have_256_random_bits_after_their_prefix() -> None:
    secret = new_secret("ms_acme")
    assert re.fullmatch(r"ms_acme_[A-Za-z0-9_-]{43}", secret)
    assert secret != new_secret("ms_acme")
    assert secret_hash(secret) == secret_hash(secret)
    assert len(secret_hash(secret)) == 64
    assert secret[-43:] not in secret_hash(secret)


@given(st.uuids())
def test_a_uuid_in_its_usual_form_is_read(value: uuid.UUID) -> None:
    assert parse_uuid(str(value)) == parse_uuid(str(value).upper()) == value


@given(st.text() | st.uuids().map(lambda value: f"{{{value}}}") | st.uuids().map(lambda value: value.hex))
def test_anything_else_is_not(text: str) -> None:
    assert parse_uuid(text) is None
