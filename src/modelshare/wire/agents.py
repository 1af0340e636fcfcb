"""Join keys, agents, deployments and grants."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelshare.wire.base import Request, Response, Seconds, UnixSeconds
from modelshare.wire.text import Line, Name


class AgentState(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    DISCONNECTED = "disconnected"
    SUSPENDED = "suspended"
    REMOVED = "removed"


class Phase(StrEnum):
    """What a deployment is doing on its agent, in order."""

    WAITING = "waiting"
    PULLING = "pulling"
    VERIFYING = "verifying"
    CONVERTING = "converting"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class JoinKeyCreate(Request):
    name: Name
    expires_in: Seconds | None = 24 * 3600
    """Seconds; None means that it never expires."""
    tiers: list[str] | None = None
    """Platform join keys only: the shared tiers served by an agent that joins with this key."""


class JoinKey(Response):
    object: Literal["join_key"] = "join_key"
    id: str
    name: str
    tiers: list[str] | None
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None


class JoinKeyWithValue(JoinKey):
    key: str
    """`msj_...`, shown only once."""


Fact = Annotated[Line, Field(max_length=200)]
Bytes = Annotated[int, Field(ge=0, le=2**53)]


class Machine(Request):
    """What a machine can run, as detected by the agent."""

    engines: Annotated[list[Fact], Field(max_length=50)] = Field(default_factory=list)
    accelerator: Fact = "cpu"
    memory_bytes: Bytes | None = None
    disk_free_bytes: Bytes | None = None
    platform: Fact = ""
    agent_version: Fact = ""


class Capabilities(Response):
    """What a machine can run, as stored by the server."""

    engines: list[str] = Field(default_factory=list)
    accelerator: str = "cpu"
    memory_bytes: int | None = None
    disk_free_bytes: int | None = None
    platform: str = ""
    agent_version: str = ""
    direct_address: str = ""
    """Where other agents can fetch files from it, as of its last connection; empty if they cannot."""
    direct_fingerprint: str = ""
    """SHA-256 of the certificate that it presents there."""
    direct_networks: list[str] = Field(default_factory=list)
    """Where it fetches files from other agents of its project."""


class Enroll(Request):
    join_key: str
    name: Name
    is_holder: bool = False
    """Whether it only serves files that stay on its machine, and runs no models."""
    capabilities: Machine = Field(default_factory=Machine)


class Enrolled(Response):
    agent_id: str
    token: str
    """`msa_...`, the agent's own credential, shown only once."""
    verdict_key: str = ""
    """Hexadecimal key with which the server signs the verdict that the agent is no longer part of the fleet."""


class DeploymentReport(Response):
    """One deployment on one agent, as last reported by the agent."""

    id: str
    model_name: str
    version: str
    phase: Phase
    bytes_done: int
    bytes_total: int
    reason: str | None
    file: str | None = None
    """The chosen model of the version; None for the version's default model."""


class Agent(Response):
    object: Literal["agent"] = "agent"
    id: str
    name: str
    state: AgentState
    tiers: list[str] | None
    """None for a private agent, which serves its project's self_hosted endpoints."""
    is_holder: bool = False
    """It runs no models: it serves files of the project's models that stay on its machine."""
    capabilities: Capabilities
    deployments: list[DeploymentReport] = Field(default_factory=list)
    created_at: UnixSeconds
    last_seen_at: UnixSeconds | None


class AgentPatch(Request):
    name: Name | None = None
    suspended: bool | None = None


class GrantFile(Response):
    path: str
    size: int
    sha256: str
    url: str
    """Signed, supports range requests, valid until the grant expires."""


class DirectSource(Response):
    """An agent that may have the files, and takes less time or traffic than their URLs (`modelshare.wire.direct`)."""

    agent_id: str
    address: str
    """Host and port."""
    fingerprint: str
    """SHA-256 of the certificate that it presents."""
    is_owner: bool
    """The machine of the files' owner, rather than an agent of the same project as the reader."""
    reader: str
    """ID of the agent that may read."""
    signatures: list[str]
    """One for each of the grant's files, in their order; empty where it does not have the file."""


class Grant(Response):
    """Permission to fetch one deployment's files, valid for a few minutes. It can be renewed during a download."""

    object: Literal["grant"] = "grant"
    deployment_id: str
    manifest_digest: str
    files: list[GrantFile]
    expires_at: UnixSeconds
    sources: list[DirectSource] = Field(default_factory=list)
    """Where else to fetch them, in the order to try them. Without an agent of the reader's project among them, the
    reader is to fetch from the owner, also for the others."""
