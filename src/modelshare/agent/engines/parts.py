"""Splits a request into single sequences for an engine, and joins their answers. Pure."""

from collections.abc import Sequence

import msgspec

from modelshare.agent.engines.answers import write_end
from modelshare.agent.engines.counts import Tally, TokenUsage, total
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.relay_rules import PreparedRequest
from modelshare.wire.inference import EMBEDDED_TOGETHER


class Subrequest(msgspec.Struct, frozen=True):
    """What an engine is asked in one turn."""

    prepared: PreparedRequest
    first: int = 0
    """Index of its first choice or vector in the whole answer. OpenAI's API lists all choices of a prompt in a row."""
    prompt: int = 0
    """Index of its prompt."""
    is_one_of_many: bool = False


def split(prepared: PreparedRequest) -> list[Subrequest]:
    """One sequence each, or a few texts to embed."""
    asked, fields = prepared.asked, prepared.fields
    if asked.turns == 1:
        return [Subrequest(prepared)]
    if not asked.generates:
        texts = _decode_items(fields["input"])
        batches = range(0, len(texts), EMBEDDED_TOGETHER)
        return [_embedding(prepared, texts[first : first + EMBEDDED_TOGETHER], first) for first in batches]
    fields = {name: raw for name, raw in fields.items() if name != "n"}
    prompts = [{}] if asked.prompts == 1 else [{"prompt": raw} for raw in _decode_items(fields["prompt"])]
    return [
        Subrequest(
            _only(prepared, fields | own | _seed(fields, choice), 1), prompt * asked.choices + choice, prompt, True
        )
        for prompt, own in enumerate(prompts)
        for choice in range(asked.choices)
    ]


def join(parts: Sequence[Subrequest], answers: Sequence[Fields]) -> Fields:
    """Joins the complete answers to several parts, for `answers.write_answer`."""
    name = "choices" if parts[0].prepared.asked.generates else "data"
    items = [
        item | {"index": _raw(part.first + offset)}
        for part, answer in zip(parts, answers, strict=True)
        for offset, item in enumerate(_decode_fields(answer[name]))
    ]
    return answers[0] | {name: _raw(items)}


class StreamMerger(msgspec.Struct, eq=False):
    """Merges the pieces of several streams into one."""

    _same: Fields = msgspec.field(default_factory=dict)
    """The fields that all pieces of a stream have in common."""

    @property
    def began(self) -> bool:
        """Whether there was a piece."""
        return bool(self._same)

    def pieces(self, part: Subrequest, pieces: Sequence[Fields]) -> list[Fields]:
        """Converts pieces of this part's stream, for `answers.write_pieces`."""
        return [self._piece(part, piece) if piece else piece for piece in pieces]

    def end(self, prepared: PreparedRequest, usage: msgspec.Raw) -> bytes:
        """The end of the stream for the client."""
        return write_end(prepared, self._same, usage)

    def _piece(self, part: Subrequest, piece: Fields) -> Fields:
        if not self._same:
            self._same = {name: raw for name, raw in piece.items() if name != "choices"}
        if not part.is_one_of_many:
            return piece
        choices = [choice | {"index": _raw(part.first)} for choice in _decode_fields(piece.get("choices", b"[]"))]
        return piece | self._same | {"choices": _raw(choices)}


class UsageCount(msgspec.Struct, eq=False):
    """Counts the tokens of a request's parts, as far as they were started.

    A prompt counts once, regardless of its number of answers.
    """

    _tallies: list[tuple[Tally, bool]] = msgspec.field(default_factory=list)
    """Each part's, and whether an earlier part has the same prompt."""
    _prompts: set[int] = msgspec.field(default_factory=set)

    def begin(self, part: Subrequest) -> Tally:
        """Starts the tally of a part, before the engine is called."""
        tally = part.prepared.tally()
        self._tallies.append((tally, part.prompt in self._prompts))
        self._prompts.add(part.prompt)
        return tally

    @property
    def usage(self) -> TokenUsage:
        """The current counts."""
        if len(self._tallies) == 1:
            return self._tallies[0][0].usage
        return total(
            msgspec.structs.replace(tally.usage, prompt_tokens=0) if is_repeated else tally.usage
            for tally, is_repeated in self._tallies
        )

    def for_client(self) -> msgspec.Raw:
        """OpenAI's `usage`; see `Tally`."""
        tally, _ = self._tallies[0]
        return tally.for_client() if len(self._tallies) == 1 else tally.for_client(self.usage)


def _embedding(prepared: PreparedRequest, texts: list[msgspec.Raw], first: int) -> Subrequest:
    return Subrequest(_only(prepared, prepared.fields | {"input": _raw(texts)}, len(texts)), first, first, True)


def _only(prepared: PreparedRequest, fields: Fields, prompts: int) -> PreparedRequest:
    asked = msgspec.structs.replace(prepared.asked, prompts=prompts, choices=1)
    size = sum(len(bytes(raw)) for raw in fields.values())
    return msgspec.structs.replace(prepared, asked=asked, fields=fields, body_bytes=size)


def _seed(fields: Fields, choice: int) -> Fields:
    """A separate seed for each choice, since the same seed would give identical answers.

    A negative seed means random.
    """
    seed = msgspec.json.decode(fields["seed"]) if choice and "seed" in fields else -1
    return {"seed": _raw(seed + choice)} if seed >= 0 else {}


_encode = msgspec.json.encode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(list[Fields]).decode


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))
