"""Rules for webhooks: events, allowed URLs, signatures and retries. Pure."""

import base64
import hmac
import json
import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from modelshare.server import public_addresses
from modelshare.server.audit.events import TYPES
from modelshare.wire.backoff import Uniform, delay
from modelshare.wire.webhooks import SECRET_PREFIX

MAX_WEBHOOKS: Final = 20
"""Per project."""
MAX_ATTEMPTS: Final = 12
"""Over about a day, with the delays below."""
GIVE_UP_SECONDS: Final = 30 * 3600
"""An older delivery fails permanently with its next failed attempt, however many it had."""
KEEP_SECONDS: Final = 30 * 24 * 3600
"""How long deliveries are kept."""
ROTATION_SECONDS: Final = 24 * 3600
"""How long after a rotation deliveries are also signed with the old secret."""
_FIRST_DELAY: Final = 10
_DELAY_FACTOR: Final = 3.0
_MAX_DELAY: Final = 6 * 3600
_MAX_PAUSE: Final = 3600
_JITTER: Final = (0.8, 1.2)
_KINDS: Final = tuple(sorted({f"{name.partition('.')[0]}.*" for name in TYPES}))
_EXAMPLE: Final = "https://example.org/hooks/modelshare"
LIMITS: Final = "Webhooks can only be sent to public addresses."


def unknown_events(events: Collection[str]) -> list[str]:
    """Those that are neither a type nor a pattern such as `endpoint.*`."""
    return [event for event in events if event not in TYPES and event not in _KINDS]


def known_events() -> str:
    """All events, as a text for messages."""
    return ", ".join((*_KINDS, *TYPES))


def matches_event(events: Collection[str], type_: str) -> bool:
    """Whether a webhook with these events receives this type. Without events, it receives all."""
    return not events or type_ in events or f"{type_.partition('.')[0]}.*" in events


def url_refusal(url: str, *, allow_private: bool) -> str | None:
    """Why a webhook cannot have this URL, judging by its text; the address is checked again for each connection."""
    if refusal := public_addresses.url_refusal(url, allow_private=allow_private, example=_EXAMPLE, limits=LIMITS):
        return refusal
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.fragment:
        return "Remove the user name, password and `#…` from the URL. Verify the signature of deliveries instead."
    return None


def signing_key(platform_secret: bytes, webhook_id: uuid.UUID, number: int) -> bytes:
    """The key that signs a webhook's deliveries. Derived from the platform's secret, so that it need not be stored.
    `number` counts the webhook's secrets, from 1.
    """
    return hmac.digest(platform_secret, f"modelshare webhook {number} {webhook_id}".encode(), "sha256")


def secret(key: bytes) -> str:
    """A signing key in its text form."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def body(event_id: uuid.UUID, type_: str, *, at: int, project_id: str, data: dict[str, Any]) -> str:
    """The request's body. Built once, so that every attempt sends the same bytes."""
    timestamp = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {"type": type_, "timestamp": timestamp, "id": str(event_id), "project": project_id, "data": data}
    return json.dumps(event, separators=(",", ":"))


def retry_delay(attempts: int, uniform: Uniform) -> int:
    """Seconds until the next attempt of a delivery that failed `attempts` times."""
    return _delay(attempts, _MAX_DELAY, uniform)


def pause(failures: int, uniform: Uniform) -> int:
    """Seconds without deliveries to an address that failed `failures` times in a row.

    Shorter than the longest delay of a delivery, so that recovery of the address is noticed within the hour.
    """
    return _delay(failures, _MAX_PAUSE, uniform)


def _delay(failures: int, limit: int, uniform: Uniform) -> int:
    return round(delay(failures, _FIRST_DELAY, limit, factor=_DELAY_FACTOR, jitter=_JITTER, uniform=uniform))


def is_given_up(attempts: int, *, age: int) -> bool:
    """Whether a delivery that has just failed is not retried."""
    return attempts >= MAX_ATTEMPTS or age > GIVE_UP_SECONDS


def readable(text: bytes, limit: int = 200) -> str:
    """The beginning of a response, on one line without control characters."""
    decoded = text.decode("utf-8", "replace")
    line = " ".join("".join(character if character.isprintable() else " " for character in decoded).split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def sorted_events(events: Sequence[str]) -> list[str]:
    """Sorted without duplicates, for storing."""
    return sorted(set(events))
