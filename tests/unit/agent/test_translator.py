"""The quick way through a stream gives the same bytes and counts as the careful one."""

import itertools
import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.answers import StreamReader, write_pieces
from modelshare.agent.engines.counts import Tally
from modelshare.agent.engines.parameters import Fields
from modelshare.agent.engines.parts import StreamMerger, Subrequest
from modelshare.agent.engines.relay_rules import PreparedRequest, RelayPolicy, prepare_request
from modelshare.agent.engines.translator import StreamTranslator

BODY = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
POLICY = RelayPolicy(public_name="acme/tiny", request_model="m")
PREPARED = prepare_request("chat/completions", json.dumps(BODY).encode(), POLICY)
PART = Subrequest(PREPARED)
MANY = Subrequest(PREPARED, 3, 1, True)
VLLM = (
    '{"id":"c","object":"chat.completion.chunk","created":%d,"model":"m","choices":[{"index":0,"delta":'
    '{"content":%s},"logprobs":null,"finish_reason":null,"token_ids":null}],"usage":null}'
)
LLAMACPP = (
    '{"choices":[{"finish_reason":null,"index":0,"delta":{"content":%s}}],"created":%d,"id":"c","model":"/abs/path",'
    '"system_fingerprint":"b1","object":"chat.completion.chunk","timings":{"cache_n":9}}'
)


class Careful:
    """What the translator does without its quick way."""

    def __init__(self, part: Subrequest) -> None:
        self.tally = part.prepared.tally()
        self._reader = StreamReader(part.prepared, self.tally)
        self._write = partial(write, StreamMerger(), part)

    def feed(self, chunk: bytes) -> bytes:
        pieces = self._reader.feed(chunk)
        return self._write(pieces) if pieces else b""


def write(merger: StreamMerger, part: Subrequest, pieces: list[Fields]) -> bytes:
    merged = merger.pieces(part, pieces)
    return write_pieces(merged) if merger.began else b""


def translator(part: Subrequest, tally: Tally) -> StreamTranslator:
    return StreamTranslator(part.prepared, tally, partial(write, StreamMerger(), part))


def counts(tally: Tally) -> tuple[Any, ...]:
    return tally._pieces, tally._bytes, tally.usage, bytes(tally._reported or b"")


def vllm(text: str, created: int = 1) -> bytes:
    return b"data: " + (VLLM % (created, text)).encode() + b"\n\n"


def llamacpp(text: str, created: int = 1) -> bytes:
    return b"data: " + (LLAMACPP % (text, created)).encode("utf-8", "surrogatepass") + b"\n\n"


texts = st.one_of(
    st.sampled_from(["word ", "", "é", "\n", '"', "\\", "7ad0c1c0f2", "data: [DONE]\n\n", '"},{', "\u2028", "\x00"]),
    st.text(max_size=8),
)
literals = st.one_of(
    texts.map(json.dumps),
    texts.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(
        ['"\\ud800"', '"\\u00e9"', "null", "5", '"a","content":"b"', '"a"},"delta":{"content":"c"', '"\\q"']
    ),
    st.sampled_from(['"a","reasoning":"b"', '"","refusal":"no"', '"a","tool_calls":[{"x":1}]', '"a\nb"', '"a"  ']),
)
events = st.one_of(
    st.builds(vllm, literals, st.integers(1, 2)),
    st.builds(llamacpp, literals, st.integers(1, 2)),
    st.sampled_from(
        [
            b": still alive\n\n",
            b"data: [DONE]\n\n",
            b"event: ping\ndata: 1\n\n",
            vllm('"a"').replace(b'"usage":null', b'"usage":{"prompt_tokens":1,"completion_tokens":2}'),
            vllm('"a"').replace(b'"usage":null', b'"usage":null,"secret":"/home"'),
            vllm('"a"').replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
            vllm('"a"').replace(b'"usage":null', b'"error":{"message":"x"}'),
            vllm('"a"').replace(b"\n", b"\r\n"),
            b'data: {"choices": [{"index": 0, "delta": {"role": "assistant"}}]}\n\n',
            b'data: {"choices": [{"index": 0, "text": "abc"}], "kv_transfer": {"content": "abc"}}\n\n',
            b'data: {"kv_transfer": {"content": "7ad0c1c0f2"}, "choices": [{"text": "7ad0c1c0f2"}]}\n\n',
            b'data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}\n\n',
            b'data: {"choices": [{"delta": {"reasoning_content": "hm", "reasoning": "other"}}]}\n\n',
            b"data: \xff\n\n",
            b"\n\n",
        ]
    ),
)


@given(st.lists(st.lists(events, min_size=1, max_size=4), max_size=12), st.sampled_from([PART, MANY]))
def test_whole_events_give_the_same(chunks: list[list[bytes]], part: Subrequest) -> None:
    assert_same([b"".join(chunk) for chunk in chunks], part)


@given(st.lists(events, max_size=12), st.lists(st.integers(0, 3000), max_size=12))
def test_events_in_parts_give_the_same(given: list[bytes], places: list[int]) -> None:
    stream = b"".join(given)
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    assert_same([stream[start:end] for start, end in itertools.pairwise(edges)], PART)


@given(st.lists(st.binary(max_size=6), max_size=8))
def test_any_bytes_in_place_of_the_text_give_the_same(given: list[bytes]) -> None:
    before, after = vllm('"@"').split(b"@")
    assert_same([vllm('"first "'), vllm('"a"'), *(before + raw + after for raw in given), vllm('"b"')], PART)


def assert_same(chunks: list[bytes], part: Subrequest) -> None:
    careful = Careful(part)
    tally = part.prepared.tally()
    quick = translator(part, tally)
    for chunk in chunks:
        assert quick.feed(chunk) == careful.feed(chunk)
        assert counts(tally) == counts(careful.tally)
        assert quick.is_over == careful._reader.is_over
        assert str(quick.failure) == str(careful._reader.failure)
        if quick.is_over:
            break


@pytest.mark.parametrize("make", [vllm, llamacpp])
def test_events_that_differ_in_their_text_are_not_parsed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = translator(PART, PREPARED.tally())
    for chunk in (make('"one "'), make('"two "')):
        quick.feed(chunk)
    monkeypatch.setattr(StreamReader, "feed", None)
    told = quick.feed(make('"three \\u00e9"') + make('"four "'))
    assert b"timings" not in told
    assert [json.loads(event[6:])["model"] for event in told.split(b"\n\n") if event] == ["acme/tiny"] * 2


def test_log_probabilities_are_always_parsed() -> None:
    body = json.dumps({"prompt": "Hi", "stream": True, "logprobs": 1}).encode()
    policy = RelayPolicy(public_name="acme/tiny", request_model="m", chat_logprobs=True)
    request: PreparedRequest = prepare_request("completions", body, policy)
    piece = (
        b'data: {"choices":[{"text":"a","logprobs":{"content":[{"token":"a","logprob":-1,"top_logprobs":[]}]}}]}\n\n'
    )
    quick = translator(Subrequest(request), request.tally())
    offsets = [json.loads(quick.feed(piece)[6:])["choices"][0]["logprobs"]["text_offset"] for _ in range(4)]
    assert offsets == [[0], [1], [2], [3]]
