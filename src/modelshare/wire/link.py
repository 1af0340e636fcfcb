"""Frames of the link: the one WebSocket that an agent opens outwards to the server (`GET /v1/agent/link`).

Every WebSocket message is one MessagePack-encoded frame, a tagged array (`[tag, field, ...]`). Every field has its
bounds in its type, and both sides check them when they decode. A frame outside them, or out of turn, ends the link
with `CloseCode.PROTOCOL`. Fields and kinds of frames that a side does not know are ignored: docs/link-protocol.md tells
how the protocol changes, and which versions understand each other.

A request is a stream of its own, named by `stream`, an integer the server chooses, unique on the link. It is answered
by one `Answer`, or by one `Head`, any number of `Chunk`s and one `End`. The agent may send at most as many body bytes
on a stream as it was given credit for (`Request.credit`, then `Credit.bytes`); what else a stream can carry comes once
and is bounded. The other direction needs no credit, since request bodies are bounded by `MAX_REQUEST_BODY`.

The server forgets what a link's end made uncertain: on a new link every deployment counts as `waiting` until the agent
reports it, so it reports each one's present phase when the first `Desired` arrives.

A link lives while frames come: each side sends `Ping` after `HEARTBEAT_SECONDS` of its own silence and closes after
`DEAD_AFTER_SECONDS` without any frame.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from modelshare.wire.agents import Phase
from modelshare.wire.signing import MAX_BUNDLE
from modelshare.wire.text import PLAIN, PLAIN_PATH, plain

PROTOCOL: Final = 2
"""The version of the protocol that this file describes."""
OLDEST_PROTOCOL: Final = PROTOCOL - 1
"""The version before is understood as well, so that servers and agents need not be updated at the same moment."""
LINK_PATH: Final = "/v1/agent/link"
HEARTBEAT_SECONDS: Final = 5.0
DEAD_AFTER_SECONDS: Final = 15.0
MAX_FRAME: Final = 1 << 20
"""Bytes of one encoded frame; longer bodies travel as several `Body` or `Chunk` frames."""
MAX_DESIRED: Final = 16 << 20
"""Bytes of an encoded `Desired`, the one frame that may be longer: it names every file of every deployment."""
BODY_SLICE: Final = 256 << 10
MAX_REQUEST_BODY: Final = 32 << 20
INITIAL_CREDIT: Final = 1 << 20
"""Bytes an agent may send on a fresh stream before it waits for `Credit`; fewer where many streams are open."""
MAX_STREAMS: Final = 4096
"""Requests under way on one link."""
MAX_DEPLOYMENTS: Final = 10_000
MAX_TEXT: Final = 500
"""Characters of a text for people."""
MAX_NAME: Final = 200
MAX_FIGURE: Final = 2**53
"""JSON readers lose digits beyond it (RFC 7493 section 2.2)."""
MAX_TOKENS: Final = 2**31 - 1
MAX_SECONDS: Final = 7 * 24 * 3600.0
_MAX_REASON_BYTES: Final = 123
"""A close frame holds 125 bytes (RFC 6455 section 5.5), two of which are the code."""
_OK: Final = 200
_LOWEST_ERROR: Final = 400

Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=PLAIN)]
"""A sentence for people; `modelshare.wire.text.plain` makes one."""
Name = Annotated[str, Meta(max_length=MAX_NAME, pattern=PLAIN)]
Id = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
"""Opaque to the other side."""
Figure = Annotated[int, Meta(ge=0, le=MAX_FIGURE)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Version = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Credited = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
Status = Annotated[int, Meta(ge=200, le=599)]
"""200, or an error's: nothing else answers an inference request, and some forbid the body that follows."""
ContentType = Annotated[
    str, Meta(max_length=100, pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]*/[0-9A-Za-z][0-9A-Za-z.+_-]*(;[ -:<-~]+)*\Z")
]
"""A media type (RFC 9110 section 8.3.1), of printable ASCII characters."""
Route = Annotated[str, Meta(pattern=r"^[a-z][a-z_/-]{0,39}\Z")]
"""`chat/completions`, `completions` or `embeddings`. Others are left unused, so that one side may know more of them."""
Slice = Annotated[bytes, Meta(max_length=MAX_FRAME)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9A-Za-z._-]{1,64}\Z")]
"""Of a manifest: it tells versions apart, and is not computed anew."""
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Path = Annotated[str, Meta(max_length=1024, pattern=PLAIN_PATH)]
"""Relative, and within the model's folder."""
Folder = Annotated[str, Meta(max_length=1024, pattern=rf"^\Z|{PLAIN_PATH}")]
"""As a `Path`, or empty: the top."""
VerdictKey = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]


def close_reason(text: str) -> str:
    """As much of the text as a WebSocket's close frame holds."""
    return plain(text, MAX_TEXT).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


class CloseCode(IntEnum):
    """Why a link ended; its reason says it in words. RFC 6455 leaves 4000-4999 to applications.

    A credential that is unknown gets no link at all: the handshake is answered with 403. None of this is final by
    itself, since proxies and strangers can say it too: what is, the server signs (`modelshare.wire.verdict`).
    """

    GOING_AWAY = 1001
    """The server restarts: link again."""
    TRY_AGAIN = 1013
    """The server cannot look the agent up now, where it could not answer the handshake with 503: link again."""
    PROTOCOL = 4400
    """The other side broke the rules of this file, or speaks another version of them: update the older one."""
    SUSPENDED = 4403
    """Try again later; it may be resumed."""
    SILENT = 4408
    """No frame for `DEAD_AFTER_SECONDS`: link again."""
    REPLACED = 4409
    """A newer link of the same agent took over: its own, or one of another process with its credential."""
    REMOVED = 4410
    """The agent is no longer part of the fleet: ask for the verdict, then delete what it holds and end."""


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
    """One deployment the agent is to hold: a model version, served under `served_name`."""

    deployment_id: Id
    manifest_digest: Digest
    served_name: Name
    """The public `model` name in requests and answers: `{project_slug}/{model_name}`."""
    version: Name
    format: Name
    architecture: Name | None
    task: Name
    context_length: Figure | None
    parameters: Figure | None
    files: Annotated[list[DeploymentFile], Meta(max_length=10_000)]
    max_concurrent: Figure
    """Requests at once that the tiers behind this deployment may send."""
    root: Folder = ""
    """The model's folder among the files; engines are given what lies in it. "" is the top."""
    weights: Annotated[list[Path], Meta(max_length=10_000)] = []
    """Of the files, exactly the weights that are opened, in order: a split GGUF begins with its first part. Empty where
    an older server does not say."""
    signature: DeploymentSignature | None = None
    """None where the version is not signed, or an older server does not say."""


# --- agent to server ---------------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, tag="hello"):
    """First frame of the agent."""

    protocol: Version
    """The oldest version that the agent understands: a server of that version looks at nothing else."""
    agent_version: Name
    engines: Annotated[list[Name], Meta(max_length=50)]
    accelerator: Name
    memory_bytes: Figure
    disk_free_bytes: Figure
    newest_protocol: Version = 0
    """The newest version that the agent understands. 0: `protocol` is the only one."""


class Report(Frame, frozen=True, tag="report"):
    """Progress of one deployment; sent on every change of phase and at most twice a second while bytes flow."""

    deployment_id: Id
    phase: Phase
    bytes_done: Figure
    bytes_total: Figure
    reason: Text | None = None
    routes: Annotated[list[Route], Meta(max_length=20)] = []
    """When ready: those that the engine serves."""


class Head(Frame, frozen=True, tag="head"):
    """Status and headers of an answer; once, before its chunks."""

    stream: Figure
    status: Status
    content_type: ContentType

    def __post_init__(self) -> None:
        _check_status(self.status)


class Chunk(Frame, frozen=True, tag="chunk"):
    """Part of an answer's body."""

    stream: Figure
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_FRAME)]


class End(Frame, frozen=True, tag="end"):
    """The answer is whole, or it broke off (`error` says why, for people). Token counts are the engine's own."""

    stream: Figure
    error: Text | None = None
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    estimated: bool = False
    """The engine gave no usable count: these are the agent's estimate."""
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 502
    """Of an `error`: what the answer would have been answered with, had it not begun."""


class Answer(Frame, frozen=True, tag="answer"):
    """Head, body and end in one frame: a whole non-streamed answer of at most `BODY_SLICE` bytes."""

    stream: Figure
    status: Status
    content_type: ContentType
    data: Annotated[bytes, Meta(max_length=BODY_SLICE)]
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    refused: bool = False
    """The agent does not serve the deployment (any more) and took nothing of the request, so that it may go elsewhere
    (in HTTP/2's words REFUSED_STREAM). The rest is the error for a client for whom there is nowhere else."""
    estimated: bool = False
    """See `End`."""
    retry_after: Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None = None
    """Seconds until another try makes sense, where the engine says so."""

    def __post_init__(self) -> None:
        _check_status(self.status)


class Released(Frame, frozen=True, tag="released"):
    """The weights of a deployment that is no longer wanted are deleted."""

    deployment_id: Id


# --- server to agent ---------------------------------------------------------------------------------------------


class Welcome(Frame, frozen=True, tag="welcome"):
    """Answer to `Hello`."""

    protocol: Version
    """The newest version that both sides understand."""
    agent_id: Id
    name: Name
    verdict_key: VerdictKey = ""
    """What the server signs verdicts on this agent with; for agents that enrolled before there were any."""


class Desired(Frame, frozen=True, tag="desired"):
    """The whole desired state; replaces the one before. Sent after `Welcome` and on every change."""

    revision: Figure
    deployments: Annotated[list[DesiredDeployment], Meta(max_length=MAX_DEPLOYMENTS)]
    unconfirmed: Annotated[list[Id], Meta(max_length=MAX_DEPLOYMENTS)] = []
    """Deployments that the agent was told to let go of: it says `Released` again of each that is gone."""


class Request(Frame, frozen=True, tag="request"):
    """An inference request for a deployment. `body` is the first slice; `more` says that `Body` frames follow."""

    stream: Figure
    deployment_id: Id
    route: Route
    body: Slice
    more: bool
    timeout: Seconds
    """The whole request may take."""
    credit: Credited
    tenant: Name = ""
    """Stands for the project that asks, and tells nothing else of it: agents serve tenants in turn, and no prompt cache
    is shared between them."""


class Body(Frame, frozen=True, tag="body"):
    stream: Figure
    data: Slice
    more: bool


class Credit(Frame, frozen=True, tag="credit"):
    stream: Figure
    bytes: Credited


class Cancel(Frame, frozen=True, tag="cancel"):
    """The client is gone or out of time: stop the engine's work. No `End` is expected."""

    stream: Figure


class Ping(Frame, frozen=True, tag="ping"):
    """Either way: I am alive."""


class UnknownFrame(Frame, frozen=True, tag="unknown"):
    """What a frame of a kind that this version does not know is read as. To be ignored."""


FromAgent = Hello | Report | Head | Chunk | End | Answer | Released | Ping | UnknownFrame
FromServer = Welcome | Desired | Request | Body | Credit | Cancel | Ping | UnknownFrame
AnswerFrame = Head | Chunk | End | Answer


def _check_status(status: int) -> None:
    if _OK < status < _LOWEST_ERROR:
        raise ValueError(f"{status} is neither {_OK} nor an error status")


class _AnyFrame(msgspec.Struct, array_like=True):
    kind: Annotated[str, Meta(pattern=r"^[a-z_]{1,40}\Z")]


_decode_any = msgspec.msgpack.Decoder(_AnyFrame).decode


def _decoder(kinds: Any) -> Callable[[bytes], Any]:
    """Bytes to frame, where there are several kinds of them. Raises msgspec.DecodeError, and nothing else."""
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
        except (UnicodeDecodeError, RecursionError) as error:  # msgspec lets these two through
            raise msgspec.DecodeError(str(error)) from error

    return checked


encode = msgspec.msgpack.Encoder().encode
"""Frame to bytes."""
decode_from_agent: Callable[[bytes], FromAgent] = _decoder(FromAgent)
decode_from_server: Callable[[bytes], FromServer] = _decoder(FromServer)
decode_answer: Callable[[bytes], AnswerFrame] = _decoder(AnswerFrame)
"""Between processes of the server."""
