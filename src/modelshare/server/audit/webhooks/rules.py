"""What webhooks hear of, where they may point, how they are signed, and when is tried again. Pure."""

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
"""Of one project."""
MAX_ATTEMPTS: Final = 12
"""With the delays below, over about a day."""
GIVE_UP_SECONDS: Final = 30 * 3600
"""A delivery that is older is given up when its address fails, even if others had all the attempts."""
KEEP_SECONDS: Final = 30 * 24 * 3600
"""How long deliveries can be looked at and redelivered."""
ROTATION_SECONDS: Final = 24 * 3600
"""For so long after a rotation, deliveries are signed with the former secret, too."""
_FIRST_DELAY: Final = 10
_DELAY_FACTOR: Final = 3.0
_MAX_DELAY: Final = 6 * 3600
_MAX_PAUSE: Final = 3600
_JITTER: Final = (0.8, 1.2)
_KINDS: Final = tuple(sorted({f"{name.partition('.')[0]}.*" for name in TYPES}))
_EXAMPLE: Final = "https://example.org/hooks/modelshare"
_LIMITS: Final = "Webhooks can only be sent to public addresses."


def unknown_events(events: Collection[str]) -> list[str]:
    """Those that are neither a type nor a kind."""
    return [event for event in events if event not in TYPES and event not in _KINDS]


def known_events() -> str:
    """All that a webhook can hear of, to be read by people."""
    return ", ".join((*_KINDS, *TYPES))


def hears_of(events: Collection[str], type_: str) -> bool:
    """Whether a webhook with these events hears of this type; one without events hears of all."""
    return not events or type_ in events or f"{type_.partition('.')[0]}.*" in events


def url_refusal(url: str, *, allow_private: bool) -> str | None:
    """Why a webhook cannot point there, as far as its text tells; the address itself is looked at when it is used."""
    if refusal := public_addresses.url_refusal(url, allow_private=allow_private, example=_EXAMPLE, limits=_LIMITS):
        return refusal
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.fragment:
        return "Remove the user name, password and `#…` from the URL. Verify the signature of deliveries instead."
    return None


def not_public(host: str) -> str:
    """Words for an address that webhooks do not reach. They do not tell where a name leads."""
    return public_addresses.not_public(host, _LIMITS)


def signing_key(platform_secret: bytes, webhook_id: uuid.UUID, number: int) -> bytes:
    """What signs a webhook's deliveries. It follows from the platform's secret, so that none needs to be stored;
    `number` counts the webhook's secrets, from 1."""
    return hmac.digest(platform_secret, f"modelshare webhook {number} {webhook_id}".encode(), "sha256")


def secret(key: bytes) -> str:
    """A signing key as people handle it."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def body(event_id: uuid.UUID, type_: str, *, at: int, project_id: str, data: dict[str, Any]) -> str:
    """What is sent. Made once, so that every attempt sends the same bytes."""
    timestamp = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = {"type": type_, "timestamp": timestamp, "id": str(event_id), "project": project_id, "data": data}
    return json.dumps(event, separators=(",", ":"))


def retry_delay(attempts: int, uniform: Uniform) -> int:
    """Seconds until a delivery that failed so many times is tried again."""
    return _delay(attempts, _MAX_DELAY, uniform)


def pause(failures: int, uniform: Uniform) -> int:
    """Seconds for which nothing at all is sent to an address that failed so many times in a row.

    Shorter than the delays of a delivery become: an address that is back is noticed within the hour.
    """
    return _delay(failures, _MAX_PAUSE, uniform)


def _delay(failures: int, limit: int, uniform: Uniform) -> int:
    return round(delay(failures, _FIRST_DELAY, limit, factor=_DELAY_FACTOR, jitter=_JITTER, uniform=uniform))


def is_given_up(attempts: int, *, age: int) -> bool:
    """Whether a delivery whose attempt just failed is not tried again."""
    return attempts >= MAX_ATTEMPTS or age > GIVE_UP_SECONDS


def readable(text: bytes, limit: int = 200) -> str:
    """The beginning of what somebody answered, as one line without control characters."""
    decoded = text.decode("utf-8", "replace")
    line = " ".join("".join(character if character.isprintable() else " " for character in decoded).split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def sorted_events(events: Sequence[str]) -> list[str]:
    """As they are stored: each once."""
    return sorted(set(events))
