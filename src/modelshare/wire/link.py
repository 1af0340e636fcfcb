"""Frames of the link: the WebSocket that an agent opens to each process of the server (`GET /v1/agent/link`).

A WebSocket message is one MessagePack-encoded frame, a tagged array (`[tag, field, ...]`), or, since version 3, an
array of up to `MAX_FRAMES` of them. The types state the bounds of every field, and both sides check them when they
decode. An invalid frame, or one that is not allowed in the current state, closes the link with `CloseCode.PROTOCOL`.
Unknown fields and frame types are ignored. docs/link-protocol.md has the rest.

Each request has its own stream, identified by `stream`, an integer that the server chooses and that is unique on the
link. The response is one `Answer`, or one `Head`, any number of `Chunk`s and one `End`. The agent may send at most as
many body bytes on a stream as it has credit for (`Request.credit` plus every `Credit.bytes`); all else is bounded, and
so are request bodies (`MAX_REQUEST_BODY`).
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from modelshare.wire.agents import Phase
from modelshare.wire.signing import MAX_BUNDLE
from modelshare.wire.text import PLAIN, PLAIN_PATH, plain

PROTOCOL: Final = 3
"""The version of the protocol that this file describes."""
OLDEST_PROTOCOL: Final = PROTOCOL - 1
"""The previous version is still supported, so that servers and agents need not be updated simultaneously."""
BATCH_PROTOCOL: Final = 3
"""The first version in which a message may have several frames."""
LINK_PATH: Final = "/v1/agent/link"
LINKED_HEADER: Final = "X-Modelshare-Linked"
"""In the handshake: the names of the processes that the agent is linked to, separated by commas. These answer 421."""
MAX_LINKS: Final = 8
"""Links of one agent, each to another process."""
MAX_PROCESSES: Final = 256
"""Names of processes in one frame."""
HEARTBEAT_SECONDS: Final = 5.0
DEAD_AFTER_SECONDS: Final = 15.0
MAX_FRAME: Final = 1 << 20
"""Bytes of one message; longer bodies are split into several `Body` or `Chunk` frames."""
MAX_FRAMES: Final = 64
"""Frames of one message. Reading more of them at once would keep other streams waiting."""
MAX_DESIRED: Final = 16 << 20
"""Bytes of an encoded `Desired`. It may exceed `MAX_FRAME` because it lists every file of every deployment."""
BODY_SLICE: Final = 256 << 10
MAX_REQUEST_BODY: Final = 32 << 20
INITIAL_CREDIT: Final = 1 << 20
"""Bytes that an agent may send on a new stream before it needs `Credit`; less when many streams are open."""
MAX_STREAMS: Final = 4096
"""Concurrent requests on one link."""
MAX_DEPLOYMENTS: Final = 10_000
MAX_TEXT: Final = 500
"""Characters of a human-readable text."""
MAX_NAME: Final = 200
MAX_INTEGER: Final = 2**53
"""Larger integers lose precision in many JSON parsers (RFC 7493 section 2.2)."""
MAX_TOKENS: Final = 2**31 - 1
MAX_SECONDS: Final = 7 * 24 * 3600.0
_MAX_REASON_BYTES: Final = 123
"""The payload of a close frame is at most 125 bytes (RFC 6455 section 5.5), two of which are the code."""
_OK: Final = 200
_LOWEST_ERROR: Final = 400

Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=PLAIN)]
"""A human-readable sentence; create one with `modelshare.wire.text.plain`."""
Name = Annotated[str, Meta(max_length=MAX_NAME, pattern=PLAIN)]
Id = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
"""Opaque to the other side."""
Figure = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Version = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Credited = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
Status = Annotated[int, Meta(ge=200, le=599)]
"""200 or an error status. No other status is needed for inference, and some do not allow a body."""
ContentType = Annotated[
    str, Meta(max_length=100, pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]*/[0-9A-Za-z][0-9A-Za-z.+_-]*(;[ -:<-~]+)*\Z")
]
"""A media type (RFC 9110 section 8.3.1), of printable ASCII characters."""
Route = Annotated[str, Meta(pattern=r"^[a-z][a-z_/-]{0,39}\Z")]
"""`chat/completions`, `completions` or `embeddings`. Unknown routes are ignored, so that either side may support
more."""
Slice = Annotated[bytes, Meta(max_length=MAX_FRAME)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9A-Za-z._-]{1,64}\Z")]
"""Digest of a manifest. Agents compare digests to tell versions apart; they do not recompute them."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Path = Annotated[str, Meta(max_length=1024, pattern=PLAIN_PATH)]
"""A relative path within the model's folder."""
Folder = Annotated[str, Meta(max_length=1024, pattern=rf"^\Z|{PLAIN_PATH}")]
"""A `Path`, or empty for the top folder."""
ProcessName = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{0,64}\Z")]
"""Empty if the other side does not say."""
Processes = Annotated[list[ProcessName], Meta(max_length=MAX_PROCESSES)]
VerdictKey = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]
HostAndPort = Annotated[str, Meta(pattern=r"^(?:\[[0-9a-f:.]{2,45}\]|[0-9A-Za-z.-]{1,253}):[1-9][0-9]{0,4}\Z")]
Network = Annotated[str, Meta(pattern=r"^[0-9a-f.:]{2,45}/[0-9]{1,3}\Z")]
"""An IP network with the length of its prefix."""


def close_reason(text: str) -> str:
    """The beginning of the text, as long as a WebSocket close frame allows."""
    return plain(text, MAX_TEXT).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


class CloseCode(IntEnum):
    """Why a link was closed; the reason text gives details. RFC 6455 reserves 4000-4999 for applications.

    With an unknown credential there is no link: the handshake is answered with 403. None of these codes is
    authoritative, since a proxy could send it as well; the server signs authoritative verdicts
    (`modelshare.wire.verdict`).
    """

    GOING_AWAY = 1001
    """The server is restarting: reconnect."""
    TRY_AGAIN = 1013
    """The server cannot look up the agent now and could not answer the handshake with 503: reconnect."""
    PROTOCOL = 4400
    """The other side violated the protocol or speaks an incompatible version: update the older one."""
    SUSPENDED = 4403
    """Try again later; an operator may resume the agent."""
    SILENT = 4408
    """No frame was received for `DEAD_AFTER_SECONDS`: reconnect."""
    REPLACED = 4409
    """A newer link with the same credential replaced this one; it may be from another process."""
    REMOVED = 4410
    """The agent was removed from the fleet: fetch the verdict, then delete all weights and exit."""


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all frames."""


class DeploymentFile(msgspec.Struct, frozen=True):
    path: Path
    size: Figure
    sha256: Sha256


class DeploymentSignature(msgspec.Struct, frozen=True):
    """The signature of a version's files: checked before an engine is given any of them."""

    bundle: Annotated[bytes, Meta(max_length=MAX_BUNDLE)]
    keys: Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=100)]
    """Public keys in PEM form: one of them has to have signed."""


class DesiredDeployment(msgspec.Struct, frozen=True):
    """A deployment that the agent is to run: a model version, served under `served_name`."""

    deployment_id: Id
    manifest_digest: Digest
    served_name: Name
    """The public model name in requests and answers: `{project_slug}/{model_name}`."""
    version: Name
    format: Name
    architecture: Name | None
    task: Name
    context_length: Figure | None
    parameters: Figure | None
    files: Annotated[list[DeploymentFile], Meta(max_length=10_000)]
    max_concurrent: Figure
    """Concurrent requests allowed by the tiers behind this deployment."""
    root: Folder = ""
    """The model's folder among the files, which is passed to the engine. "" is the top folder."""
    weights: Annotated[list[Path], Meta(max_length=10_000)] = []
    """The paths of the weight files to open, in order: a split GGUF begins with its first part. Empty if an older
    server does not send them."""
    signature: DeploymentSignature | None = None
    """None if the version is not signed, or if an older server does not send it."""


class Direct(msgspec.Struct, frozen=True):
    """Where other agents can fetch files from this one (`modelshare.wire.direct`)."""

    address: HostAndPort
    fingerprint: Sha256
    """Of the TLS certificate that it presents."""
    networks: Annotated[list[Network], Meta(max_length=16)] = []
    """Where it fetches files from other agents of its project."""


# --- agent to server ---------------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, tag="hello"):
    """The agent's first frame."""

    protocol: Version
    """The oldest version that the agent understands. A server of that version ignores `newest_protocol`."""
    agent_version: Name
    engines: Annotated[list[Name], Meta(max_length=50)]
    accelerator: Name
    memory_bytes: Figure
    disk_free_bytes: Figure
    newest_protocol: Version = 0
    """The newest version that the agent understands. 0 means that `protocol` is the only one."""
    direct: Direct | None = None
    """None if no other agent may fetch files from it."""
    instance: ProcessName = ""
    """Identifies this run of the agent's program, whose links exist side by side."""


class Report(Frame, frozen=True, tag="report"):
    """Progress of one deployment, sent on every phase change and at most twice a second during transfers."""

    deployment_id: Id
    phase: Phase
    bytes_done: Figure
    bytes_total: Figure
    reason: Text | None = None
    routes: Annotated[list[Route], Meta(max_length=20)] = []
    """The routes that the engine serves; only in phase `ready`."""


class _Beginning(Frame, frozen=True):
    """Status and headers of a response."""

    stream: Figure
    status: Status
    content_type: ContentType

    def __post_init__(self) -> None:
        if _OK < self.status < _LOWEST_ERROR:
            raise ValueError(f"{self.status} is neither {_OK} nor an error status")


class Head(_Beginning, frozen=True, tag="head"):
    """Status and headers of a response; sent once, before its chunks."""


class Chunk(Frame, frozen=True, tag="chunk"):
    """Part of a response body."""

    stream: Figure
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_FRAME)]


class End(Frame, frozen=True, tag="end"):
    """The response is complete, or it failed (`error` says why, for people). Token counts come from the engine."""

    stream: Figure
    error: Text | None = None
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    estimated: bool = False
    """The engine reported no usable count, and the agent estimated it."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 502
    """If there is an `error`: the HTTP status that the response would have had before it started."""


class Answer(_Beginning, frozen=True, tag="answer"):
    """Head, body and end in one frame: a complete non-streamed response of at most `BODY_SLICE` bytes."""

    data: Annotated[bytes, Meta(max_length=BODY_SLICE)]
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    refused: bool = False
    """The agent does not serve the deployment and has not processed the request, so that it can be sent to another
    agent (like HTTP/2's REFUSED_STREAM). The other fields are the error for the client if there is no other agent."""
    estimated: bool = False
    """As in `End`."""
    retry_after: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    """Seconds after which the client should retry, if the engine says so."""


class Released(Frame, frozen=True, tag="released"):
    """The agent has deleted the weights of a deployment that is no longer desired."""

    deployment_id: Id


# --- server to agent ---------------------------------------------------------------------------------------------


class Welcome(Frame, frozen=True, tag="welcome"):
    """The server's response to `Hello`."""

    protocol: Version
    """The newest version that both sides understand."""
    agent_id: Id
    name: Name
    verdict_key: VerdictKey = ""
    """Key of the signature on verdicts about this agent, for agents that enrolled before these existed."""
    process: ProcessName = ""
    """The process at this end of the link."""
    processes: Processes = []
    """As in `Ping`."""


class Desired(Frame, frozen=True, tag="desired"):
    """The complete desired state; replaces the previous one. Sent after `Welcome` and on every change."""

    revision: Figure
    deployments: Annotated[list[DesiredDeployment], Meta(max_length=MAX_DEPLOYMENTS)]
    unconfirmed: Annotated[list[Id], Meta(max_length=MAX_DEPLOYMENTS)] = []
    """Deployments that the agent was told to delete. It sends `Released` again for each one that is already deleted."""


class Request(Frame, frozen=True, tag="request"):
    """An inference request for a deployment. `body` is the first slice; if `more`, `Body` frames follow."""

    stream: Figure
    deployment_id: Id
    route: Route
    body: Slice
    more: bool
    timeout: Seconds
    """Maximum duration of the whole request."""
    credit: Credited
    tenant: Name = ""
    """An opaque pseudonym of the requesting project. Agents take turns between tenants, and share no prompt cache
    between them."""


class Body(Frame, frozen=True, tag="body"):
    stream: Figure
    data: Slice
    more: bool


class Credit(Frame, frozen=True, tag="credit"):
    stream: Figure
    bytes: Credited


class Cancel(Frame, frozen=True, tag="cancel"):
    """The client disconnected or timed out: stop the engine's work. No `End` is expected."""

    stream: Figure


class DeploymentLoad(msgspec.Struct, frozen=True):
    """How busy an engine is with the requests of all server processes, in sequences."""

    deployment_id: Id
    slots: Figure
    running: Figure
    waiting: Figure


class Ping(Frame, frozen=True, tag="ping"):
    """Keeps the link alive: each side sends it when it has sent nothing for `HEARTBEAT_SECONDS`."""

    processes: Processes = []
    """From the server, when they changed: those that accept links, without this one if it is about to stop."""
    loads: Annotated[list[DeploymentLoad], Meta(max_length=MAX_DEPLOYMENTS)] | None = None
    """From the agent, when they changed: those of all deployments that serve. None: not said."""


class UnknownFrame(Frame, frozen=True, tag="unknown"):
    """Stands for a frame of an unknown type, which is to be ignored."""


FromAgent = Hello | Report | Head | Chunk | End | Answer | Released | Ping | UnknownFrame
FromServer = Welcome | Desired | Request | Body | Credit | Cancel | Ping | UnknownFrame
AnswerFrame = Head | Chunk | End | Answer


class _AnyFrame(msgspec.Struct, array_like=True):
    kind: Annotated[str, Meta(pattern=r"^[a-z_]{1,40}\Z")]


_decode_any = msgspec.msgpack.Decoder(_AnyFrame).decode


def _decoder(kinds: Any) -> Callable[[bytes], Any]:
    """Returns a decoder for several frame types. It raises msgspec.DecodeError and no other exception."""
    decode = msgspec.msgpack.Decoder(kinds).decode
    known = {kind.__struct_config__.tag for kind in get_args(kinds)}

    def tolerant(data: bytes) -> Any:
        try:
            return decode(data)
        except msgspec.ValidationError:
            if UnknownFrame not in get_args(kinds) or _decode_any(data).kind in known:
                raise
            return UnknownFrame()

    def checked(data: bytes) -> Any:
        try:
            return tolerant(data)
        except (UnicodeDecodeError, RecursionError) as error:  # msgspec does not wrap these two
            raise msgspec.DecodeError(str(error)) from error

    return checked


encode = msgspec.msgpack.Encoder().encode
"""Encodes a frame, or a list of several, to bytes."""
decode_from_agent: Callable[[bytes], FromAgent] = _decoder(FromAgent)
decode_from_server: Callable[[bytes], FromServer] = _decoder(FromServer)
