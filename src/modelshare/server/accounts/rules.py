"""Rules for valid keys, members' permissions, e-mails, names and passwords. Pure."""

import ipaddress
import math
import unicodedata
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from modelshare.wire.keys import NO_LIMITS, KeyLimits, Scope
from modelshare.wire.text import fits_name

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RANDOM_LENGTH = 43
"""Characters of 256 random bits in URL-safe base64."""
EMAIL_LENGTH: Final = 254
"""Maximum length of an e-mail address (RFC 5321, with its errata)."""
NAME_LENGTH: Final = 200
PASSWORD_LENGTHS: Final = range(10, 257)
"""Only the length is restricted, as recommended by NIST SP 800-63B section 3.1.1."""


class MemberRole(StrEnum):
    """A member's role in a project."""

    OWNER = "owner"
    MEMBER = "member"


_SCOPES: Final = {
    MemberRole.OWNER: frozenset[Scope](),
    MemberRole.MEMBER: frozenset({Scope.MODELS, Scope.ENDPOINTS, Scope.AGENTS, Scope.INFERENCE}),
}


def scopes_of(role: MemberRole) -> frozenset[Scope]:
    """The role's scopes; as for a key, empty means all."""
    return _SCOPES[role]


def normal_email(text: str) -> str:
    """The canonical form of an address, equal for different ways of typing it."""
    return text.strip().lower()


def clean_email(text: str) -> str:
    """The canonical form of an address. Raises ValueError, with a message, if it is invalid."""
    email = normal_email(text)
    local, at, domain = email.partition("@")
    if not local or not at or not domain or "@" in domain or len(email) > EMAIL_LENGTH or not _is_plain(email):
        raise ValueError("Invalid e-mail address. Use one such as ada@example.org.")
    return email


def clean_name(text: str) -> str:
    """A name without surrounding space. Raises ValueError, with a message, if it is invalid."""
    name = text.strip()
    if not name or len(name) > NAME_LENGTH:
        raise ValueError(f"A name must have 1 to {NAME_LENGTH} characters.")
    if not fits_name(name):
        raise ValueError("Control characters are not allowed in names. Use letters, spaces and the like.")
    return name


def normal_password(text: str) -> str:
    """The canonical form (NFKC), equal for different encodings of the same characters."""
    return unicodedata.normalize("NFKC", text)


def check_password(text: str, email: str) -> None:
    """Raises ValueError, with a message, if the password is too weak for the person with this e-mail."""
    password = normal_password(text[: 4 * PASSWORD_LENGTHS.stop])
    if len(password) not in PASSWORD_LENGTHS or len(text) > 4 * PASSWORD_LENGTHS.stop:
        raise ValueError(f"A password must have {PASSWORD_LENGTHS.start} to {PASSWORD_LENGTHS.stop - 1} characters.")
    if password.casefold() == email.strip().casefold():
        raise ValueError("Your e-mail address is not secret. Choose another password.")
    if any(unicodedata.category(character) == "Cs" for character in password):
        raise ValueError("This password contains an invalid character. Choose another one.")


def valid_until(*, expires_at: int | None, revoked_at: int | None, value_expires_at: int | None) -> float:
    """When a value ends, in Unix seconds: its key is revoked or expires, or its grace period after a rotation ends."""
    if revoked_at is not None:
        return -math.inf
    return min(math.inf if end is None else end for end in (expires_at, value_expires_at))


def is_allowed_from(address: str, networks: Collection[str]) -> bool:
    """True if the list is empty or one of the networks contains the address."""
    allowed = [ipaddress.ip_network(network, strict=False) for network in networks] if networks else []
    if not allowed:
        return True
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in allowed)


@dataclass(frozen=True, slots=True)
class Reach:
    """A key's permissions."""

    scopes: AbstractSet[Scope]
    """Empty means every scope."""
    endpoint: str | None = None
    """The only endpoint it may call."""
    networks: tuple[str, ...] = ()
    """Networks from which it may be used; empty: everywhere."""
    expires_at: int | None = None
    limits: KeyLimits = NO_LIMITS


def beyond(own: Reach, wanted: Reach) -> str | None:
    """Why a key may not create another, as a sentence; None if the other has no more permissions than it."""
    if not may_hand_out(own.scopes, wanted.scopes):
        scopes = ", ".join(sorted(own.scopes))
        return f"A key can only grant scopes it has itself: {scopes}. Use some of these in `scopes`."
    if own.endpoint is not None and wanted.endpoint != own.endpoint:
        return f"This key may only call the endpoint `{own.endpoint}`, and so may the keys it creates: set `endpoint`."
    if own.networks and not _within(wanted.networks, own.networks):
        networks = ", ".join(own.networks)
        return f"This key may only be used from {networks}, and so may the keys it creates: set `allowed_ips`."
    if own.expires_at is not None and (wanted.expires_at is None or wanted.expires_at > own.expires_at):
        return (
            f"This key expires at {own.expires_at} (Unix time), and the keys it creates cannot expire later: set "
            "`expires_in`."
        )
    for name, own_limit, limit in zip(own.limits._fields, own.limits, wanted.limits, strict=True):
        if own_limit is not None and (limit is None or limit > own_limit):
            return f"A key cannot allow more than it may use itself: set `{name}` to at most {own_limit}."
    return None


def effective_scopes(scopes: Iterable[str], endpoint: str | None) -> frozenset[Scope]:
    """A key's scopes. A key restricted to an endpoint, without scopes, may only call that endpoint."""
    given = frozenset(Scope(scope) for scope in scopes)
    return given or (frozenset({Scope.INFERENCE}) if endpoint else given)


def may_hand_out(own: AbstractSet[Scope], wanted: AbstractSet[Scope]) -> bool:
    """Whether a key may create a key with the `wanted` scopes: only its own ones. An empty set means all scopes."""
    return not own or bool(wanted and wanted <= own)


def _within(inner: Iterable[str], outer: Iterable[str]) -> bool:
    """Whether each inner network is in one of the outer ones. No inner networks mean the whole internet."""
    within = [ipaddress.ip_network(network, strict=False) for network in inner]
    allowed = [ipaddress.ip_network(network, strict=False) for network in outer]
    return bool(within) and all(any(_lies_in(one, other) for other in allowed) for one in within)


def _lies_in(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def hint(secret: str) -> str:
    """Enough of a value to distinguish keys: `ms_acme_Ab12…wxyz`."""
    head, random = secret[:-RANDOM_LENGTH], secret[-RANDOM_LENGTH:]
    return f"{head}{random[:4]}…{random[-4:]}"


def _is_plain(text: str) -> bool:
    """Whether it has no spaces, control characters and bidirectional controls."""
    return all(character.isprintable() and not character.isspace() for character in text)
