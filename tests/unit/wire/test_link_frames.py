"""What is read from a link: only what is within the bounds, whatever came; else one kind of error, and no other."""

import math
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odd_frames
from modelshare.wire.agents import Phase
from modelshare.wire.link import (
    MAX_TEXT,
    End,
    Report,
    close_reason,
    decode_from_agent,
    decode_from_server,
)
from modelshare.wire.text import plain

ID = odd_frames.UNKNOWN
ANSWER = ["answer", 1, 200, "application/json", b"{}", 3, 4]
STATUSES = (0, -1, 99, 100, 101, 199, 204, 304, 399, 600, 1000, 2**64 - 1)
TYPES = ("", "text", "text/html\r\nSet-Cookie: a", "text/é", "a/b\n", "a/" + "b" * 99, "a/b" + ";  " * 32 + "\n")
PATHS = ("/a", "../a", "a//b", "a/..", "a\\b", "", "\0")
TIMES = (0, -1.0, math.nan, math.inf, 1e9, "1")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_decode_error(data: bytes) -> None:
    for decode in (decode_from_agent, decode_from_server):
        try:
            decode(data)
        except msgspec.DecodeError:
            continue


@given(st.integers(0, 2**64))
@settings(max_examples=300)
def test_any_changed_frame_is_a_frame_or_a_decode_error(seed: int) -> None:
    random = Random(seed)
    for honest, decode in ((odd_frames.from_agent, decode_from_agent), (odd_frames.from_server, decode_from_server)):
        fields = honest(random)
        decode(odd_frames.encode(fields))
        try:
            frame = decode(odd_frames.changed(random, fields))
        except msgspec.DecodeError:
            continue
        _holds(msgspec.to_builtins(frame, builtin_types=(bytes,)))


def _holds(value: Any) -> None:
    """What may not come through, wherever it stands."""
    match value:
        case bool() | None:
            pass
        case int() | float():
            assert 0 <= value <= 2**53
            assert math.isfinite(value)
        case str():
            assert value == plain(value, 1024)
        case list():
            for each in value:
                _holds(each)
        case dict():
            _holds(list(value.values()))


@pytest.mark.parametrize(
    "fields",
    [
        *[["answer", 1, status, *ANSWER[3:]] for status in STATUSES],
        *[["head", 1, status, "text/plain"] for status in (0, 101, 302, 600)],
        *[["head", 1, 200, kind] for kind in TYPES],
        *[["end", 1, None, count, 0] for count in (-1, 2**31, 2**63, 2**64 - 1, 1.0, "5", None, True)],
        *[["end", 1, reason, 0, 0] for reason in ("\0", "a\nb", "\x1b[m", "\x9b", "\u202e", "\u2028", "x" * 501)],
        ["chunk", 1, b""],
        ["chunk", -1, b"x"],
        ["answer", 1, 200, "application/json", bytes((256 << 10) + 1)],
        *[["report", name, "ready", 0, 0] for name in ("", "a b", "../x", "\0", "x" * 65)],
        *[["report", ID, phase, 0, 0] for phase in ("", "gone", 3, None)],
        ["report", ID, "ready", -1, 0],
        ["report", ID, "ready", 0, 2**53 + 1],
        ["report", ID, "ready", 0, 0, None, ["chat/completions"] * 21],
        *[["report", ID, "ready", 0, 0, None, [route]] for route in ("", "/etc", "A", "x" * 99, "chat completions", 5)],
        ["released", "no id"],
        ["hello", 1, "1", ["\0"], "cpu", 0, 0],
        ["hello", 1, "1", ["x"] * 51, "cpu", 0, 0],
        ["hello", 1, "1\n", [], "cpu", 0, 0],
        ["hello", 1, "1", [], "c" * 201, 0, 0],
        ["hello", 1, "1", [], "cpu", -1, 0],
        ["hello", 1, "1", [], "cpu", 0, 2**64 - 1],
    ],
)  # fmt: skip
def test_what_an_agent_says_out_of_bounds_is_refused(fields: odd_frames.Fields) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_agent(odd_frames.encode(fields))


def wanted(**changes: Any) -> odd_frames.Fields:
    random = Random(0)
    while (fields := odd_frames.from_server(random))[0] != "desired" or not fields[2]:
        pass
    fields[2][0] |= changes
    return fields


@pytest.mark.parametrize(
    "fields",
    [
        *[wanted(files=[{"path": path, "size": 1, "sha256": "a" * 64}]) for path in PATHS],
        wanted(files=[{"path": "a", "size": -1, "sha256": "a" * 64}]),
        wanted(files=[{"path": "a", "size": 1, "sha256": "A" * 64}]),
        wanted(deployment_id="../../etc"),
        wanted(manifest_digest="sha256:"),
        wanted(context_length=2**63),
        wanted(max_concurrent=-1),
        wanted(served_name="a\x1b"),
        *[["request", 1, ID, "completions", b"", False, seconds, 5] for seconds in TIMES],
        ["request", 1, ID, "completions", b"", False, 1.0, -5],
        ["request", 1, ID, "../metrics", b"", False, 1.0, 5],
        ["credit", 1, 2**31],
        ["cancel", 2**54],
        ["welcome", 1, ID, "box", "short"],
        ["welcome", 1, ID, "\x1b", ""],
    ],
)  # fmt: skip
def test_what_a_server_says_out_of_bounds_is_refused(fields: odd_frames.Fields) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_server(odd_frames.encode(fields))


@given(st.text())
def test_any_text_can_be_made_plain_and_sent(text: str) -> None:
    for make in (
        lambda: End(1, plain(text, MAX_TEXT)),
        lambda: Report(ID, Phase.FAILED, 0, 0, plain(text, 500)),
    ):
        frame: Any = make()
        assert decode_from_agent(odd_frames.encode(frame)) == frame


@pytest.mark.parametrize("text", ["", "é" * 100, "x" * 500, "😀" * 60, "a\n\ud800"])
def test_a_close_reason_fits_its_frame(text: str) -> None:
    reason = close_reason(text)
    assert len(reason.encode()) <= 123
    assert plain(text, 500).startswith(reason)
    assert len(plain(text, 500).encode()) - len(reason.encode()) < 4 or len(reason.encode()) > 119
