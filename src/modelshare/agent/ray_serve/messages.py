"""What the agent and the program that it runs for a cluster (`driver.py`) tell each other: JSON, one message a line."""

from typing import Final

import msgspec

from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.wire.link import DesiredDeployment

LONGEST_LINE: Final = 64 << 20
"""Bytes. A deployment has up to 10,000 files."""


class Copy(msgspec.Struct, frozen=True):
    """A folder of a node that has the weights, or is about to."""

    id: str
    """Random, stored in the folder."""
    host: str
    """The node's name, for people."""


class Deploy(msgspec.Struct, frozen=True, tag="deploy"):
    """First message of the agent: run this until the connection ends, then delete the application."""

    wanted: DesiredDeployment
    settings: RaySettings
    parallel: int
    """Sequences that one replica processes at once."""
    key_digest: str
    """SHA-256 of the key that requests carry. The key itself never gets into the cluster's configuration."""


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """First message of the agent: delete the application, and the weights on all nodes."""

    deployment_id: str
    settings: RaySettings


class Granted(msgspec.Struct, frozen=True, tag="granted"):
    """Answers `GrantWanted`."""

    number: int
    grant: str = ""
    """The grant as JSON; empty if there is none."""
    reason: str = ""


class GrantWanted(msgspec.Struct, frozen=True, tag="grant_wanted"):
    """A node needs access to the weights."""

    number: int
    copy: Copy


class State(msgspec.Struct, frozen=True, tag="state"):
    """The application, as Serve sees it."""

    replicas: int
    """Those that serve."""
    detail: str = ""
    """What Serve says while they are not all there."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The last message: the application cannot be run, in one sentence."""

    reason: str


class Deleted(msgspec.Struct, frozen=True, tag="deleted"):
    """The last message after `Delete`."""

    copies: list[str]
    """The ids of all nodes' folders; none of them has the weights any more."""


FromAgent = Deploy | Delete | Granted
FromDriver = GrantWanted | State | Failed | Deleted


def line(message: FromAgent | FromDriver) -> bytes:
    return msgspec.json.encode(message) + b"\n"


from_agent: Final = msgspec.json.Decoder(FromAgent).decode
from_driver: Final = msgspec.json.Decoder(FromDriver).decode
