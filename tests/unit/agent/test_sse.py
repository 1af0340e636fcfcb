import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines import sse
from modelshare.agent.engines.sse import Event, EventParser, EventTooLongError

BLOCKS = [
    (b'data: {"a": "\xc3\xa9"}\n\n', [Event(b'{"a": "\xc3\xa9"}')]),
    (b": ping\n\n", [Event(None)]),
    (b"event: x\r\ndata: 1\r\ndata: 2\r\n\r\n", [Event(b"1\n2", b"x")]),
    (b"data: [DONE]\r\r", [Event(b"[DONE]")]),
    (b"data\ndata\n\n", [Event(b"\n")]),
    (b"data:  two\nid: 7\nretry: 1\nunknown: z\n\n", [Event(b" two")]),
    (b"event: nothing\n\n", []),
    (b"\n\r\n\r", []),
    (b"data: \xff\xfe\n\n", [Event("\ufffd\ufffd".encode())]),
    (b"data: \xef\xbb\xbfa\n\n", [Event(b"\xef\xbb\xbfa")]),
]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.lists(st.sampled_from(BLOCKS), max_size=8),
    st.lists(st.integers(0, 500), max_size=12),
    st.booleans(),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_events_are_those_of_the_specification_however_the_stream_was_cut(
    blocks: list[tuple[bytes, list[Event]]], places: list[int], has_mark: bool, line_end: bytes
) -> None:
    stream = b"".join(block for block, _ in blocks).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    stream = (b"\xef\xbb\xbf" if has_mark else b"") + stream.replace(b"\n", line_end)
    parser = EventParser()

    got = [event for chunk in cut(stream, places) for event in parser.feed(chunk)]

    assert got == [event for _, events in blocks for event in events]
    assert parser.finish() == []


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=9))
def test_any_bytes_are_read_the_same_however_they_were_cut(stream: bytes, places: list[int]) -> None:
    whole, parts = EventParser(), EventParser()
    wanted = [*whole.feed(stream), *whole.finish()]
    assert [*(event for chunk in cut(stream, places) for event in parts.feed(chunk)), *parts.finish()] == wanted


def test_an_unfinished_event_waits_and_comes_at_the_end() -> None:
    parser = EventParser()
    assert parser.feed(b"data: 1\n") == []
    assert parser.feed(b"\ndata: 2") == [Event(b"1")]
    assert parser.finish() == [Event(b"2")]


def test_an_event_without_end_is_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_BYTES", 1000)
    for endless in (b"x" * 100, b"data: " + b"x" * 93 + b"\n"):
        parser = EventParser()
        for _ in range(9):
            assert parser.feed(endless) == []
        with pytest.raises(EventTooLongError):
            parser.feed(endless * 2)
