"""What an engine gets of a request. Pure, on bytes, and quick.

A request is taken apart into its fields, and goes to the engine with those that the engine honours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from modelshare.agent.engines import parameters
from modelshare.agent.engines.counts import DETAILS, Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.texts import TextEncoder
from modelshare.wire.inference import InferenceRequest, read


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPolicy:
    """How an engine differs from what clients are promised."""

    public_name: str
    request_model: str | None
    """What the engine wants in a request's `model`; None leaves the field out."""
    takes: frozenset[str] = parameters.OPENAI
    """Parameters that it honours."""
    usage_on_request: bool = True
    """Its streams tell their usage only when `stream_options.include_usage` asks for it."""
    counts_all: bool = False
    """Its usage covers all choices and prompts of a request, not only the first."""
    chat_logprobs: bool = False
    """Its completions tell log probabilities as chats do, and none for `logprobs: 0`."""
    usage_details: frozenset[str] = frozenset(DETAILS)
    """What may be told of its usage beyond counts: not what comes of other tenants' requests."""
    context_length: int | None = None
    """Tokens that a prompt and its answer may have together, where that is known."""
    texts: TextEncoder | None = None
    """Makes the tokens of texts to embed; where there is none, the engine does. It takes time: use a thread."""
    normalizes: bool | None = None
    """Of an engine that has to be told whether vectors get the length 1."""
    finish: Callable[[Sequence[float]], tuple[float, ...]] | None = None
    """What is still to be computed of each vector; it takes a moment."""

    def under(self, public_name: str) -> "RelayPolicy":
        """The policy after the model was renamed, the engine having been started under its former name."""
        return replace(self, public_name=public_name)


class PreparedRequest(msgspec.Struct, frozen=True):
    """A request as one call to an engine."""

    route: str
    asked: InferenceRequest
    fields: Fields
    """What the engine gets."""
    policy: RelayPolicy
    client_fields: frozenset[str]
    """Names of what the client sent."""
    include_usage: bool
    """The client wants to see a stream's usage."""
    is_base64: bool
    """How the client wants its vectors."""
    body_bytes: int
    wanted_logprobs: int | None = None
    """How many alternatives to each token of a completion the client wants, of an engine that tells them otherwise."""

    @property
    def body(self) -> bytes:
        """For the engine."""
        return _encode(self.fields)

    def tally(self) -> Tally:
        """The count of its answer."""
        prompt = next((self.fields[name] for name in ("messages", "prompt", "input") if name in self.fields), b"")
        policy = self.policy
        return Tally(
            self.asked,
            self.body_bytes,
            len(prompt),
            policy.context_length,
            counts_all=policy.counts_all,
            details=policy.usage_details,
        )


def prepare_request(route: str, body: bytes, policy: RelayPolicy) -> PreparedRequest:
    """The request for the engine. Values that pass keep their bytes. Raises BadInferenceRequest, and
    Refusal for a text that is too long."""
    asked = read(route, body)
    parameters.check(route, body)
    given = _decode_fields(body)
    fields = parameters.honoured(given, policy.takes)
    fields.pop("model", None)
    if policy.request_model is not None:
        fields = {"model": msgspec.Raw(_encode(policy.request_model)), **fields}
    for name in {"max_tokens", "max_completion_tokens"} & fields.keys():
        fields[name] = msgspec.Raw(b"%d" % (asked.max_tokens or 0))
    wanted_logprobs = None
    if policy.chat_logprobs and route == "completions" and "logprobs" in fields:
        wanted_logprobs = msgspec.json.decode(fields["logprobs"], type=int)
        fields["logprobs"] = msgspec.Raw(b"%d" % max(1, wanted_logprobs))
    if route == "embeddings":
        fields |= _embedding_fields(fields, policy)
    options = fields.pop("stream_options", None)
    if asked.stream and policy.usage_on_request:
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
    return PreparedRequest(
        route=route,
        asked=asked,
        fields=fields,
        policy=policy,
        client_fields=frozenset(given),
        include_usage=options is not None and _is(_decode_fields(options).get("include_usage"), b"true"),
        is_base64=_is(given.get("encoding_format"), b'"base64"'),
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


_encode: Final = msgspec.json.encode
_L2_NORM: Final = msgspec.Raw(b"2")
_AS_IT_IS: Final = msgspec.Raw(b"-1")
"""Values of llama.cpp's `embd_normalize`."""
_decode_fields: Final = msgspec.json.Decoder(Fields).decode


def _is(value: msgspec.Raw | None, expected: bytes) -> bool:
    return value is not None and bytes(value).strip() == expected
