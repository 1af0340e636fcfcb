import itertools

from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.sse import EventSplitter, data_of

EVENTS = [b'data: {"a": "\xc3\xa9"}\n\n', b": ping\n\n", b"event: x\r\ndata: 1\r\ndata: 2\r\n\r\n", b"data: [DONE]\r\r"]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.lists(st.integers(0, 500), max_size=12))
def test_events_do_not_depend_on_how_the_stream_was_cut(events: list[bytes], places: list[int]) -> None:
    stream = b"".join(events)
    splitter = EventSplitter()

    got = [event for chunk in cut(stream, places) for event in splitter.feed(chunk)]

    assert b"".join(got) + splitter.rest == stream
    wanted = [data_of(event) for event in events]
    assert [data_of(event) for event in [*got, splitter.rest] if event.strip()] == wanted


def test_an_unfinished_event_waits() -> None:
    splitter = EventSplitter()

    assert splitter.feed(b"data: 1\n") == []
    assert splitter.rest == b"data: 1\n"
    assert splitter.feed(b"\ndata") == [b"data: 1\n\n"]
    assert splitter.rest == b"data"


def test_data_lines_are_joined() -> None:
    assert data_of(b"data:1\nid: 7\ndata:  2\n\n") == b"1\n 2"
    assert data_of(b": comment\n\n") is None
