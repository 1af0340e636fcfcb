"""Frames of the link: the one WebSocket that an agent opens outwards to the server (`GET /v1/agent/link`).

Every WebSocket message is one MessagePack-encoded frame, a tagged array (`[tag, field, ...]`). A request is a stream
of its own, named by `stream`, an integer the server chooses, unique on the link. The agent may send at most as many
body bytes on a stream as it was given credit for (`Request.credit`, then `Credit.bytes`); the other direction needs
none, since request bodies are bounded by `MAX_REQUEST_BODY`.

The server forgets what a link's end made uncertain: on a new link every deployment counts as `waiting` until the agent
reports it, so it reports each one's present phase when the first `Desired` arrives.

A link lives while frames come: each side sends `Ping` after `HEARTBEAT_SECONDS` of its own silence and closes after
`DEAD_AFTER_SECONDS` without any frame.
"""

from enum import IntEnum
from typing import Annotated, Final

import msgspec

PROTOCOL: Final = 1
LINK_PATH: Final = "/v1/agent/link"
HEARTBEAT_SECONDS: Final = 5.0
DEAD_AFTER_SECONDS: Final = 15.0
MAX_FRAME: Final = 1 << 20
"""Bytes of one encoded frame; longer bodies travel as several `Body` or `Chunk` frames."""
BODY_SLICE: Final = 256 << 10
MAX_REQUEST_BODY: Final = 32 << 20
INITIAL_CREDIT: Final = 1 << 20
"""Bytes an agent may send on a fresh stream before it waits for `Credit`."""


class CloseCode(IntEnum):
    """Why the server ended a link; its reason says it in words. RFC 6455 leaves 4000-4999 to applications.

    A credential that is unknown gets no link at all: the handshake is answered with 403.
    """

    GOING_AWAY = 1001
    """The server restarts: link again."""
    PROTOCOL = 4400
    """The agent broke the rules of this file, or speaks another version of them: update it."""
    SUSPENDED = 4403
    """Try again later; it may be resumed."""
    SILENT = 4408
    """No frame for `DEAD_AFTER_SECONDS`: link again."""
    REPLACED = 4409
    """A newer link of the same agent took over: another process runs with its credential."""
    REMOVED = 4410
    """The agent is no longer part of the fleet: delete what it holds and end."""


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all frames."""


class DeploymentFile(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Wanted(msgspec.Struct, frozen=True):
    """One deployment the agent is to hold: a model version, served under `served_name`."""

    deployment_id: str
    manifest_digest: str
    served_name: str
    """The public `model` name in requests and answers: `{project_slug}/{model_name}`."""
    version: str
    format: str
    architecture: str | None
    task: str
    context_length: int | None
    parameters: int | None
    files: list[DeploymentFile]
    max_concurrent: int
    """Requests at once that the tiers behind this deployment may send."""


# --- agent to server ---------------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, tag="hello"):
    """First frame of the agent."""

    protocol: int
    agent_version: str
    engines: list[str]
    accelerator: str
    memory_bytes: int
    disk_free_bytes: int


class Report(Frame, frozen=True, tag="report"):
    """Progress of one deployment; sent on every change of phase and at most twice a second while bytes flow."""

    deployment_id: str
    phase: str
    bytes_done: int
    bytes_total: int
    reason: str | None = None
    routes: list[str] = []
    """When ready: which of `chat/completions`, `completions`, `embeddings` the engine serves."""


class Head(Frame, frozen=True, tag="head"):
    """Status and headers of an answer; always before its chunks."""

    stream: int
    status: int
    content_type: str


class Chunk(Frame, frozen=True, tag="chunk"):
    """Part of an answer's body."""

    stream: int
    data: bytes


class End(Frame, frozen=True, tag="end"):
    """The answer is whole, or it broke off (`error` says why, for people). Token counts are the engine's own."""

    stream: int
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    """The engine gave no usable count: these are the agent's estimate."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 502
    """Of an `error`: what the answer would have been answered with, had it not begun."""


class Answer(Frame, frozen=True, tag="answer"):
    """Head, body and end in one frame: a whole non-streamed answer of at most `BODY_SLICE` bytes."""

    stream: int
    status: int
    content_type: str
    data: bytes
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: bool = False
    """The agent does not serve the deployment (any more) and took nothing of the request, so that it may go elsewhere
    (in HTTP/2's words REFUSED_STREAM). The rest is the error for a client for whom there is nowhere else."""
    estimated: bool = False
    """See `End`."""
    retry_after: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    """Seconds until another try makes sense, where the engine says so."""


class Released(Frame, frozen=True, tag="released"):
    """The weights of a deployment that is no longer wanted are deleted."""

    deployment_id: str


# --- server to agent ---------------------------------------------------------------------------------------------


class Welcome(Frame, frozen=True, tag="welcome"):
    """Answer to `Hello`."""

    protocol: int
    agent_id: str
    name: str


class Desired(Frame, frozen=True, tag="desired"):
    """The whole desired state; replaces the one before. Sent after `Welcome` and on every change."""

    revision: int
    deployments: list[Wanted]
    unconfirmed: list[str] = []
    """Deployments that the agent was told to let go of: it says `Released` again of each that is gone."""


class Request(Frame, frozen=True, tag="request"):
    """An inference request for a deployment. `body` is the first slice; `more` says that `Body` frames follow."""

    stream: int
    deployment_id: str
    route: str
    """`chat/completions`, `completions` or `embeddings`."""
    body: bytes
    more: bool
    timeout: float
    """Seconds the whole request may take."""
    credit: int
    tenant: str = ""
    """Stands for the project that asks, and tells nothing else of it: agents serve tenants in turn, and no prompt cache
    is shared between them."""


class Body(Frame, frozen=True, tag="body"):
    stream: int
    data: bytes
    more: bool


class Credit(Frame, frozen=True, tag="credit"):
    stream: int
    bytes: int


class Cancel(Frame, frozen=True, tag="cancel"):
    """The client is gone or out of time: stop the engine's work. No `End` is expected."""

    stream: int


class Ping(Frame, frozen=True, tag="ping"):
    """Either way: I am alive."""


FromAgent = Hello | Report | Head | Chunk | End | Answer | Released | Ping
FromServer = Welcome | Desired | Request | Body | Credit | Cancel | Ping

encode = msgspec.msgpack.Encoder().encode
"""Frame to bytes."""
decode_from_agent = msgspec.msgpack.Decoder(FromAgent).decode
decode_from_server = msgspec.msgpack.Decoder(FromServer).decode
