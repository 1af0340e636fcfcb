"""What webhooks hear of, how deliveries are signed, and when they are tried again."""

import base64
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from modelshare.client import WebhookSignatureError, verify_webhook
from modelshare.server.audit import events
from modelshare.server.audit.webhooks import rules
from modelshare.wire.webhooks import ID_HEADER, SIGNATURE_HEADER, TEST_EVENT, TIMESTAMP_HEADER, signature

types = st.sampled_from(events.TYPES)
BODY = b'{"type":"model.ready","timestamp":"2026-11-25T13:09:42Z","id":"1","project":"proj_0","data":{}}'
KEY, OTHER_KEY = b"k" * 32, b"o" * 32
SECRET = rules.secret(KEY)
DOCS = Path(__file__).parents[3] / "docs" / "webhooks.md"
NOW = 1_800_000_000


def signed(*keys: bytes, body: bytes = BODY, timestamp: int = NOW) -> dict[str, str]:
    signatures = " ".join(signature(key, "1", timestamp, body) for key in keys or (KEY,))
    return {ID_HEADER: "1", TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: signatures}


@given(types, st.lists(types))
def test_without_events_it_hears_of_all(type_: str, others: list[str]) -> None:
    assert rules.matches_event([], type_)
    assert rules.matches_event([*others, type_], type_)
    assert rules.matches_event([f"{type_.partition('.')[0]}.*"], type_)
    if others:
        assert rules.matches_event(others, type_) == (type_ in others)


@given(st.lists(st.text() | types))
def test_unknown_events_are_those_that_nothing_is_called(names: list[str]) -> None:
    kinds = {"model.*", "endpoint.*", "agent.*", "budget.*"}
    assert rules.unknown_events(names) == [name for name in names if name not in kinds and name not in events.TYPES]


def test_every_event_is_documented() -> None:
    named = set(re.findall(r"`([a-z]+\.[a-z_*]+)`", DOCS.read_text(encoding="utf-8")))
    kinds = {"model.*", "endpoint.*", "agent.*", "budget.*"}
    assert named == {*events.TYPES, *kinds, TEST_EVENT}


@given(st.text() | st.from_regex(r"https?://[!-~]*", fullmatch=True), st.booleans())
def test_every_url_is_taken_or_refused_in_words(url: str, allow_private: bool) -> None:
    refusal = rules.url_refusal(url, allow_private=allow_private)
    if refusal is None:
        assert url.lower().startswith(("https://", "http://") if allow_private else "https://")
        assert url.isascii()
        assert "@" not in urlsplit(url).netloc
    else:
        assert refusal.endswith(".")


@pytest.mark.parametrize(
    "url", ["https://a.example", "https://a.example:8443/x?token=1", "https://8.8.8.8/", "https://[2606:4700::1111]/"]
)
def test_urls_that_are_fine(url: str) -> None:
    assert rules.url_refusal(url, allow_private=False) is None


@given(st.integers(1, 10_000), st.sampled_from([0.8, 1.0, 1.2]))
def test_delays_grow_up_to_a_bound(failures: int, jitter: float) -> None:
    delays = [rules.retry_delay(number, lambda *_: jitter) for number in range(1, failures + 1)][-2:]
    assert delays == sorted(delays)
    assert 8 <= delays[-1] <= 6 * 3600 * 1.2
    assert rules.pause(failures, lambda *_: jitter) <= min(3600 * 1.2, delays[-1])


def test_the_attempts_are_over_about_a_day() -> None:
    delays = [rules.retry_delay(number, lambda *_: 1.0) for number in range(1, rules.MAX_ATTEMPTS)]
    assert delays[:4] == [10, 30, 90, 270]
    assert 20 * 3600 < sum(delays) < rules.GIVE_UP_SECONDS
    assert rules.is_given_up(rules.MAX_ATTEMPTS, age=0)
    assert not rules.is_given_up(rules.MAX_ATTEMPTS - 1, age=rules.GIVE_UP_SECONDS)
    assert rules.is_given_up(1, age=rules.GIVE_UP_SECONDS + 1)


@given(st.binary(), st.integers(1, 50))
def test_what_was_answered_is_one_printable_line(text: bytes, limit: int) -> None:
    line = rules.readable(text, limit)
    assert line.isprintable()
    assert len(line) <= limit + 1


@given(st.uuids(), st.uuids(), st.binary(min_size=1))
def test_each_webhook_has_a_secret_of_its_own(one: uuid.UUID, other: uuid.UUID, platform: bytes) -> None:
    key = rules.signing_key(platform, one, 1)
    assert key == rules.signing_key(platform, one, 1)
    assert (key == rules.signing_key(platform, other, 1)) == (one == other)
    assert key not in (rules.signing_key(platform + b"!", one, 1), rules.signing_key(platform, one, 2))
    assert base64.b64decode(rules.secret(key).removeprefix("whsec_"), validate=True) == key


@given(st.binary(min_size=1), st.text(st.characters(codec="utf-8")).map(str.encode))
def test_it_signs_as_the_standard_library_does(key: bytes, body: bytes) -> None:
    at = datetime.fromtimestamp(NOW, UTC)
    assert signature(key, "msg_1", NOW, body) == Webhook(rules.secret(key)).sign("msg_1", at, body.decode())


@pytest.mark.parametrize("lower", [True, False])
def test_a_signature_that_is_right(lower: bool) -> None:
    headers = {name.lower() if lower else name: value for name, value in signed().items()}
    assert verify_webhook(SECRET, headers, BODY, now=NOW + 299).type == "model.ready"


def test_any_of_several_signatures_will_do() -> None:
    for headers in (signed(OTHER_KEY, KEY), signed() | {SIGNATURE_HEADER: f"v1a,x {signed()[SIGNATURE_HEADER]} v2"}):
        assert verify_webhook(SECRET, headers, BODY, now=NOW).id == "1"


def test_a_secret_in_the_spelling_of_earlier_versions() -> None:
    key = bytes(range(236, 256)) + KEY
    spelled = "whsec_" + base64.urlsafe_b64encode(key).decode().rstrip("=")
    assert spelled != rules.secret(key)
    assert verify_webhook(spelled, signed(key), BODY, now=NOW).id == "1"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_käse", "whsec_a", base64.b64encode(KEY).decode()])
def test_what_is_no_secret_verifies_nothing(secret: str) -> None:
    with pytest.raises(WebhookSignatureError, match="secret"):
        verify_webhook(secret, signed(), BODY, now=NOW)


@pytest.mark.parametrize(
    ("headers", "body", "now"),
    [
        (signed(OTHER_KEY), BODY, NOW),
        (signed(), BODY + b" ", NOW),
        (signed(), BODY, NOW + 301),
        (signed(), BODY, NOW - 301),
        (signed() | {TIMESTAMP_HEADER: str(NOW + 1)}, BODY, NOW),
        (signed() | {TIMESTAMP_HEADER: "soon"}, BODY, NOW),
        (signed() | {TIMESTAMP_HEADER: "9" * 5000}, BODY, NOW),
        (signed() | {ID_HEADER: "2"}, BODY, NOW),
        (signed() | {SIGNATURE_HEADER: "v1,"}, BODY, NOW),
        (signed() | {SIGNATURE_HEADER: "v1,käse\ud800"}, BODY, NOW),
        (signed() | {SIGNATURE_HEADER: signed()[SIGNATURE_HEADER].removeprefix("v1,")}, BODY, NOW),
        ({}, BODY, NOW),
        (signed(body=b"[]"), b"[]", NOW),
    ],
)
def test_what_is_not_of_the_platform_is_refused(headers: dict[str, str], body: bytes, now: int) -> None:
    with pytest.raises(WebhookSignatureError):
        verify_webhook(SECRET, headers, body, now=now)
