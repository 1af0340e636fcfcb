"""Translates a client's request for an engine. Pure, on bytes, and fast.

A request is split into its fields, and those that the engine supports are passed on.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import msgspec

from modelshare.agent.engines import parameters
from modelshare.agent.engines.counts import DETAILS, Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.texts import TextEncoder
from modelshare.wire.inference import InferenceRequest, read


@dataclass(frozen=True, kw_only=True)  # without slots, which cached properties cannot have
class RelayPolicy:
    """How an engine's API differs from what clients see."""

    public_name: str
    request_model: str | None
    """The value of `model` for the engine; None omits the field."""
    supports: frozenset[str] = parameters.OPENAI
    """Parameters that it supports."""
    usage_on_request: bool = True
    """Its streams report the usage only if `stream_options.include_usage` is set."""
    ends_streams_only: bool = False
    """It finishes a complete answer even if nobody waits for it any more, but not a stream: it is asked for streams."""
    counts_all: bool = False
    """Its usage covers all choices and prompts of a request, not only the first."""
    chat_logprobs: bool = False
    """Its completions return log probabilities in the format of chats, and none for `logprobs: 0`."""
    usage_details: frozenset[str] = frozenset(DETAILS)
    """Details of its usage that a client may see; not those that depend on other tenants' requests."""
    context_length: int | None = None
    """The model's context length in tokens, if known."""
    texts: TextEncoder | None = None
    """Tokenizes texts to embed; if None, the engine does. It is slow: use a thread."""
    normalizes: bool | None = None
    """For an engine that must be told whether vectors are normalized."""
    finish: Callable[[Sequence[float]], tuple[float, ...]] | None = None
    """Layers to compute for each vector; takes some time."""

    @cached_property
    def model_for_client(self) -> msgspec.Raw:
        """The value of `model` in answers."""
        return msgspec.Raw(_encode(self.public_name))

    @cached_property
    def model_for_engine(self) -> Fields:
        """The field `model` of requests, if the engine gets one."""
        return {} if self.request_model is None else {"model": msgspec.Raw(_encode(self.request_model))}

    def under(self, public_name: str) -> "RelayPolicy":
        """The policy for a model that was renamed after the engine was started under its old name."""
        return replace(self, public_name=public_name)


class PreparedRequest(msgspec.Struct, frozen=True):
    """A request as one call to an engine."""

    route: str
    asked: InferenceRequest
    fields: Fields
    """The fields for the engine."""
    policy: RelayPolicy
    client_fields: Collection[str]
    """Names of the client's fields."""
    include_usage: bool
    """Whether the client wants the usage of a stream."""
    is_base64: bool
    """Whether the client wants vectors in base64."""
    body_bytes: int
    wanted_logprobs: int | None = None
    """Number of alternatives per token of a completion that the client wants, if the engine's format differs."""

    def body(self, more: dict[str, int | str]) -> bytes:
        """The body for the engine, with `more` fields."""
        return _encode(self.fields | more)

    @property
    def prompt(self) -> bytes:
        """What the engine has to read, as JSON."""
        fields = self.fields
        return fields.get("messages") or fields.get("prompt") or fields.get("input") or b""

    def tally(self) -> Tally:
        """A counter for its answer."""
        policy = self.policy
        return Tally(
            self.asked,
            self.body_bytes,
            len(self.prompt),
            policy.context_length,
            counts_all=policy.counts_all,
            details=policy.usage_details,
        )


def prepare_request(route: str, body: bytes, policy: RelayPolicy) -> PreparedRequest:
    """Translates a request for the engine; unchanged values keep their exact bytes.

    Raises BadInferenceRequestError, and EngineRefusalError for a text that is too long.
    """
    asked = read(route, body)
    parameters.check(route, body)
    given = _decode_fields(body)
    supported = parameters.supported(given, policy.supports)
    supported.pop("model", None)
    fields = policy.model_for_engine | supported
    for name in _LIMITS & fields.keys():
        fields[name] = msgspec.Raw(b"%d" % (asked.max_tokens or 0))
    wanted_logprobs = None
    if policy.chat_logprobs and route == "completions" and "logprobs" in fields:
        wanted_logprobs = msgspec.json.decode(fields["logprobs"], type=int)
        fields["logprobs"] = msgspec.Raw(b"%d" % max(1, wanted_logprobs))
    is_base64 = False
    if route == "embeddings":
        is_base64 = _is(given.get("encoding_format"), b'"base64"')
        fields |= _embedding_fields(fields, policy)
    options = fields.pop("stream_options", None)
    if policy.ends_streams_only:
        fields["stream"] = msgspec.Raw(b"true")
    if (asked.stream or policy.ends_streams_only) and policy.usage_on_request:
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    return PreparedRequest(
        route=route,
        asked=asked,
        fields=fields,
        policy=policy,
        client_fields=given.keys(),
        include_usage=options is not None and _is(_decode_fields(options).get("include_usage"), b"true"),
        is_base64=is_base64,
        body_bytes=len(body),
        wanted_logprobs=wanted_logprobs,
    )


def _embedding_fields(fields: Fields, policy: RelayPolicy) -> Fields:
    changed: Fields = {}
    if policy.texts is not None:
        changed["input"] = policy.texts.encoded(fields["input"], policy.context_length)
    if policy.normalizes is not None:
        changed["embd_normalize"] = _L2_NORM if policy.normalizes else _AS_IT_IS
    return changed


_LIMITS: Final = frozenset({"max_tokens", "max_completion_tokens"})
_encode: Final = msgspec.json.encode
_L2_NORM: Final = msgspec.Raw(b"2")
_AS_IT_IS: Final = msgspec.Raw(b"-1")
"""Values of llama.cpp's `embd_normalize`."""
_decode_fields: Final = msgspec.json.Decoder(Fields).decode


def _is(value: msgspec.Raw | None, expected: bytes) -> bool:
    return value is not None and bytes(value).strip() == expected
