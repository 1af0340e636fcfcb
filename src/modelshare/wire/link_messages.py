"""Reads and writes the messages of the link: one frame each, or several (`modelshare.wire.link`)."""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec

from modelshare.wire.link import (
    BATCH_PROTOCOL,
    MAX_FRAME,
    MAX_FRAMES,
    Frame,
    FromAgent,
    FromServer,
    decode_from_agent,
    decode_from_server,
    encode,
)

BATCH_FRAMES: Final = 8
"""Frames after which a message is sent rather than extended: the other side should not wait for all of them."""
BATCH_BYTES: Final = MAX_FRAME // 2
"""As `BATCH_FRAMES`, in bytes."""

_Decoded = TypeVar("_Decoded")
_FIXED_ARRAY: Final = 0x90
_FIXED_LENGTHS: Final = 16
_ARRAY_16: Final = 0xDC
"""First bytes of MessagePack arrays, of fewer than 16 items and of more."""


def _reader(decode: Callable[[bytes], _Decoded], kinds: Any) -> Callable[[bytes], Sequence[_Decoded]]:
    """Returns a decoder for messages of one frame or several. It raises msgspec.DecodeError and no other exception."""
    decode_all = msgspec.msgpack.Decoder(list[kinds]).decode
    split = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode

    def read(data: bytes) -> Sequence[_Decoded]:
        count, start = _array(data, 0)
        if count is None or _array(data, start)[0] is None:
            return (decode(data),)
        if not 0 < count <= MAX_FRAMES:
            raise msgspec.DecodeError(f"a message has 1 to {MAX_FRAMES} frames, not {count}")
        with contextlib.suppress(msgspec.ValidationError, UnicodeDecodeError, RecursionError):
            return cast("Sequence[_Decoded]", decode_all(data))
        try:
            return [decode(bytes(each)) for each in split(data)]  # some kinds may be unknown
        except RecursionError as error:
            raise msgspec.DecodeError(str(error)) from error

    return read


def _array(data: bytes, at: int) -> tuple[int | None, int]:
    """The length of the array that begins there, and where its items begin; None if there is no array."""
    first = data[at] if at < len(data) else 0
    if _FIXED_ARRAY <= first < _FIXED_ARRAY + _FIXED_LENGTHS:
        return first - _FIXED_ARRAY, at + 1
    if first == _ARRAY_16:
        return int.from_bytes(data[at + 1 : at + 3]), at + 3
    return None, at


read_from_agent: Callable[[bytes], Sequence[FromAgent]] = _reader(decode_from_agent, FromAgent)
"""The frames of a message."""
read_from_server: Callable[[bytes], Sequence[FromServer]] = _reader(decode_from_server, FromServer)


class Outbox:
    """Encoded frames that wait to be sent."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        """The version that the other side speaks."""
        self.size = 0
        """Bytes of all frames."""
        self._frames: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> int:
        """Returns how many frames wait now."""
        data = encode(frame)
        self._frames.append(data)
        self.size += len(data)
        return len(self._frames)

    def next_message(self) -> bytes:
        """Takes as many frames as the other side understands in one message. Raises IndexError if there are none."""
        frames = [self._frames.popleft()]
        size = len(frames[0])
        limit = BATCH_FRAMES if self.protocol >= BATCH_PROTOCOL else 1
        while self._frames and len(frames) < limit and size + len(self._frames[0]) <= BATCH_BYTES:
            frames.append(self._frames.popleft())
            size += len(frames[-1])
        self.size -= size
        return frames[0] if len(frames) == 1 else encode([msgspec.Raw(frame) for frame in frames])
