"""What the operator allows: where this agent listens for other agents, and where it connects to them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, NamedTuple

from modelshare.agent.direct.sources import Network
from modelshare.wire.direct import DEFAULT_PORT

_ADDRESS: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9A-Za-z.-]+))(?::([0-9]{1,5}))?|([0-9a-fA-F:.]+)")
_SITE_4: Final = 24
_SITE_6: Final = 64
MAX_NETWORKS: Final = 16
_LAST_PORT: Final = 65_535


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`10.0.0.5`, `10.0.0.5:7433`, `[fd00::5]:7433` or `files.example.org`. Raises ValueError."""
        match = _ADDRESS.fullmatch(text.strip())
        try:
            host = _host(match[1] or match[4], match[2]) if match else ""
        except ValueError:
            host = ""
        port = int(match[3]) if match and match[3] else DEFAULT_PORT
        if not host or port > _LAST_PORT:
            raise ValueError(f"Invalid address {text!r}. Use a form such as 10.0.0.5:{DEFAULT_PORT}.")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _host(address: str | None, name: str | None) -> str:
    return str(IPv6Address(address)) if address else name or ""


def _network(text: str) -> Network:
    """`10.0.0.0/8`, or one address. Raises ValueError."""
    try:
        return ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ValueError(f"Invalid network {text!r}. Use a form such as 10.0.0.0/8.") from error


@dataclass(frozen=True, slots=True)
class DirectOptions:
    announced: Address | None = None
    """Where other agents reach this one; None: it does not listen. Port 0: a free one."""
    listen: Address | None = None
    """Where it listens, if that differs."""
    allowed: tuple[Network, ...] = ()
    """Networks in which it may connect to other agents, besides public addresses."""

    @classmethod
    def sharing(cls, address: Address | None, listen: Address | None, allowed: Sequence[str]) -> "DirectOptions":
        """Of an agent. One that shares connects to its own network as well. Raises ValueError."""
        networks = list(map(_network, allowed))
        if address is not None:
            try:
                own = ip_address(address.host)
            except ValueError as error:
                raise ValueError(
                    "Give the IP address of this machine on the network, such as 10.0.0.5, and not a name."
                ) from error
            networks.insert(0, ip_network((own, _SITE_6 if isinstance(own, IPv6Address) else _SITE_4), strict=False))
        if len(networks) > MAX_NETWORKS:
            raise ValueError(f"At most {MAX_NETWORKS} networks can be allowed.")
        return cls(address, listen, tuple(networks))
