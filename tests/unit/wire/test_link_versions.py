"""Servers and agents of neighbouring versions understand each other."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from link_recording import FROM_AGENT, FROM_SERVER
from modelshare.wire.link import (
    MAX_FRAMES,
    OLDEST_PROTOCOL,
    Desired,
    Frame,
    Hello,
    Ping,
    Released,
    UnknownFrame,
    decode_from_agent,
    decode_from_server,
    encode,
)
from modelshare.wire.link_messages import read_from_agent, read_from_server

DECODERS: list[Callable[[bytes], Frame]] = [decode_from_agent, decode_from_server]
fields_of = msgspec.msgpack.decode


def recorded() -> Iterator[tuple[bytes, Callable[[bytes], Frame]]]:
    for decode, frames in zip(DECODERS, (FROM_AGENT, FROM_SERVER), strict=True):
        for frame in frames:
            yield frame, decode


def extends(now: Any, before: Any) -> bool:
    """Whether who reads `before` can read `now`: new fields come at the end, or under new names."""
    match before:
        case list():
            return len(now) >= len(before) and all(map(extends, now, before))
        case dict():
            return all(name in now and extends(now[name], value) for name, value in before.items())
        case _:
            return bool(now == before)


def test_every_kind_of_frame_is_recorded() -> None:
    kinds = {fields_of(data)[0] for data, _ in recorded()}
    assert kinds == {
        *("hello", "report", "head", "chunk", "end", "answer", "released", "ping"),
        *("welcome", "desired", "request", "body", "credit", "cancel"),
    }


def test_frames_of_the_version_before_mean_what_they_meant() -> None:
    for data, decode in recorded():
        frame = decode(data)
        assert not isinstance(frame, UnknownFrame)
        now, before = fields_of(encode(frame)), fields_of(data)
        assert extends(now, before), (now, before)


def test_fields_that_are_not_known_are_ignored() -> None:
    for data, decode in recorded():
        fields = [*fields_of(encode(decode(data))), {"new": 1}, "x"]
        if fields[0] == "desired":
            fields[2][0] |= {"new": [1], "newer": None}
        assert decode(encode(fields)) == decode(data)


@pytest.mark.parametrize("kind", ["rebalance", "answer_part", "x"])
def test_kinds_that_are_not_known_are_ignored(kind: str) -> None:
    for decode in DECODERS:
        for fields in ([kind], [kind, 1, {"a": [b"x"]}, None], [kind, *["x"] * 1000]):
            assert isinstance(decode(encode(fields)), UnknownFrame)


@pytest.mark.parametrize(
    "fields", [[], ["Not a kind"], ["é"], [""], [1, 2], [["hello"]], {"kind": "hello"}, "hello", None]
)
def test_what_names_no_kind_is_no_frame(fields: Any) -> None:
    for decode in DECODERS:
        with pytest.raises(msgspec.DecodeError):
            decode(encode(fields))


def test_frames_of_the_other_side_are_not_known() -> None:
    assert isinstance(decode_from_agent(encode(Desired(1, []))), UnknownFrame)
    assert isinstance(decode_from_server(encode(Released("a"))), UnknownFrame)


def test_a_server_of_the_version_before_reads_this_versions_hello() -> None:
    """It looked at the first field alone, which had to be its own version."""
    hello = fields_of(encode(Hello(OLDEST_PROTOCOL, "9", ["new"], "cpu", 0, 0, newest_protocol=OLDEST_PROTOCOL + 1)))
    assert hello[:3] == ["hello", OLDEST_PROTOCOL, "9"]


def test_a_message_has_one_frame_or_several() -> None:
    for decode, read, data in (
        (decode_from_agent, read_from_agent, FROM_AGENT),
        (decode_from_server, read_from_server, FROM_SERVER),
    ):
        frames = [decode(each) for each in data]
        assert [frame for each in data for frame in read(each)] == frames
        assert list(read(encode(frames))) == frames
        assert list(read(encode([*frames, ["rebalance", 1]]))) == [*frames, UnknownFrame()]
        assert len(read(encode([Ping()] * MAX_FRAMES))) == MAX_FRAMES


@pytest.mark.parametrize(
    "message",
    [
        encode([]),
        encode([Ping()] * (MAX_FRAMES + 1)),
        b"\xdd\x00\x01\x00\x00" + encode(Ping()) * 65536,
        encode([[Ping()]]),
        encode([Ping(), "ping"]),
        encode([Ping(), ["chunk", -1, b"x"], ["credit", -1, 1]]),
        encode([Ping()])[:-1],
        encode([Ping()]) + b"\xc0",
        b"\xdc\x00",
        b"\x92",
        b"\xc1",
        b"",
        b"\x91" * 100_000,
    ],
)
def test_what_is_neither_a_frame_nor_a_few_is_refused(message: bytes) -> None:
    for read in (read_from_agent, read_from_server):
        with pytest.raises(msgspec.DecodeError):
            read(message)
