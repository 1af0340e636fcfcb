"""Malformed frames: valid ones that are mutated in many ways, from a seed."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

from modelshare.wire.agents import Phase

encode = msgspec.msgpack.encode
Fields = list[Any]
UNKNOWN = "0190a6f0-0000-7000-8000-000000000000"
NUMBERS = [-(2**63), -1, 0, 1, 99, 100, 101, 199, 204, 304, 399, 600, 1000, 2**31, 2**53 + 1, 2**63, 2**64 - 1]
TEXTS = ["", "\0", "\x1b[2J", "a\r\nb: c", "\u202e", "é" * 200, "x" * 501, "y" * 100_000, "../..", "%s{}", "text/html"]
OTHERS: Sequence[Any] = [
    None,
    True,
    False,
    1.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    b"",
    b"\xff" * 300,
    [],
    [[[[]]]],
    ["x"] * 5000,
    {},
    {"a": {"b": 1}},
    {"deployment_id": 5},
    msgspec.msgpack.Ext(5, b"ext"),
    msgspec.msgpack.Ext(-1, b"\xff" * 12),
]
RAW = [
    b"",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 3000,
    b"\x81" * 3000,
    b"\x92\xa4ping" + b"\x91" * 5000 + b"\xc0",
    b"\x92\xa8released\xa2\xff\xfe",
    b"\x94\xa6answer\x01\xcc\xc8\xd9\xffx",
]
"""Invalid MessagePack, truncated data, excessive nesting, invalid UTF-8."""


def from_agent(random: Random, deployments: Sequence[str] = (), streams: Sequence[int] = ()) -> Fields:
    """A valid frame of an agent with these deployments and requests."""
    deployment = random.choice([*deployments, UNKNOWN])
    stream = random.choice([*streams, random.randrange(1, 50)])
    kinds: list[Callable[[], Fields]] = [
        lambda: ["ping"],
        lambda: ["report", deployment, random.choice(list(Phase)).value, 1, 2, None, ["completions"]],
        lambda: ["report", deployment, "failed", 0, 1, "It does not fit.", []],
        lambda: ["released", deployment],
        lambda: ["head", stream, 200, "text/event-stream"],
        lambda: ["chunk", stream, b"data: 1\n\n"],
        lambda: ["end", stream, None, 3, 4, False],
        lambda: ["end", stream, "It broke off.", 0, 0, True],
        lambda: ["answer", stream, 200, "application/json", b"{}", 3, 4, False, False],
        lambda: ["answer", stream, 503, "application/json", b"{}", 0, 0, True, False],
    ]
    return random.choice(kinds)()


def from_server(random: Random) -> Fields:
    """A valid frame of a server."""
    stream = random.randrange(1, 20)
    file = {"path": "a/model.gguf", "size": 5, "sha256": "a" * 64}
    wanted = {
        "deployment_id": UNKNOWN,
        "manifest_digest": "sha256:" + "b" * 64,
        "served_name": "acme/tiny",
        "version": "1.0.0",
        "format": "gguf",
        "architecture": "llama",
        "task": "chat",
        "context_length": 2048,
        "parameters": None,
        "files": [file],
        "max_concurrent": 4,
    }
    kinds: list[Fields] = [
        ["ping"],
        ["welcome", 1, UNKNOWN, "box", "c" * 64],
        ["desired", 1, [wanted], [UNKNOWN]],
        ["desired", 2, [], []],
        ["request", stream, UNKNOWN, "chat/completions", b"{}", random.random() < 0.5, 30.0, 1 << 20, "t"],
        ["body", stream, b"x", random.random() < 0.5],
        ["credit", stream, 1000],
        ["cancel", stream],
    ]
    return random.choice(kinds)


def changed(random: Random, frame: Fields) -> bytes:
    """The frame, mutated as by a malicious or faulty sender."""
    ways: list[Callable[[], bytes]] = [
        lambda: encode(_with_odd_field(random, frame)),
        lambda: encode(_with_odd_field(random, _with_odd_field(random, frame))),
        lambda: encode(frame[: random.randrange(len(frame) + 1)]),
        lambda: encode([*frame, *[_odd(random)] * random.randrange(1, 4)]),
        lambda: encode(random.sample(frame, len(frame))),
        lambda: encode({str(number): field for number, field in enumerate(frame)}),
        lambda: encode(_odd(random)),
        lambda: _with_other_bytes(random, encode(frame)),
        lambda: encode(frame)[: random.randrange(len(encode(frame)))],
        lambda: encode(frame) + random.randbytes(random.randrange(1, 20)),
        lambda: random.randbytes(random.randrange(1, 300)),
        lambda: random.choice(RAW),
    ]
    return random.choice(ways)()


def _odd(random: Random) -> Any:
    kinds: list[Sequence[Any]] = [NUMBERS, TEXTS, OTHERS]
    return random.choice(random.choice(kinds))


def _with_odd_field(random: Random, frame: Fields) -> Fields:
    """Replaces one field, or one nested below a field."""
    copy = list(frame)
    at = random.randrange(len(copy))
    if isinstance(copy[at], list) and copy[at] and random.random() < 0.8:
        copy[at] = _with_odd_field(random, copy[at])
    elif isinstance(copy[at], dict) and copy[at] and random.random() < 0.9:
        copy[at] = copy[at] | {random.choice(list(copy[at])): _odd(random)}
    else:
        copy[at] = _odd(random)
    return copy


def _with_other_bytes(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)
