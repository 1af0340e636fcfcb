"""What a stream sends, in whatever order credit, space and data come."""

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.streams import Stream
from modelshare.wire.link import BODY_SLICE, Answer, Chunk, End, Frame, Head, Request


class Outlet:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.is_full = False
        self.waiting: dict[Callable[[], None], None] = {}

    def post(self, frame: Frame) -> None:
        assert not (self.is_full and isinstance(frame, Chunk)), "chunks wait for space"
        self.frames.append(frame)

    def when_space(self, callback: Callable[[], None]) -> None:
        self.waiting[callback] = None

    def empty(self) -> None:
        self.is_full = False
        waiting, self.waiting = self.waiting, {}
        for callback in waiting:
            callback()

    def fill(self) -> None:
        self.is_full = True


def stream_on(outlet: Outlet, credit: int, on_close: Callable[[Stream], None] = lambda _: None) -> Stream:
    return Stream(Request(1, "dep", "completions", b"", False, 9, credit), outlet, on_close)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.integers(0, 3 * BODY_SLICE)),
        st.tuples(st.just("credit"), st.integers(0, 2 * BODY_SLICE)),
        st.tuples(st.sampled_from(["fill", "empty"]), st.just(0)),
    ),
    max_size=20,
)


@given(steps, st.integers(0, BODY_SLICE), st.sampled_from(["end", "cancel", "drop"]))
def test_chunks_keep_to_the_credit_and_the_order_and_the_end_comes_last(
    steps: list[tuple[str, int]], credit: int, ending: str
) -> None:
    async def run() -> None:
        outlet, closed = Outlet(), list[Stream]()
        stream = stream_on(outlet, credit, closed.append)
        stream.head(200, "text/plain")
        given_credit, data = credit, bytearray()
        for kind, number in steps:
            if kind == "data":
                piece = bytes([len(data) % 251]) * number
                data.extend(piece)
                stream.chunk(piece)
            elif kind == "credit":
                given_credit += number
                stream.credit(number)
            else:
                (outlet.fill if kind == "fill" else outlet.empty)()
            assert len(body(outlet)) + stream.waiting_bytes == len(data)
            assert len(body(outlet)) <= given_credit
            assert outlet.is_full or len(body(outlet)) == min(given_credit, len(data)), "nothing waits without a reason"
        if ending == "cancel":
            stream.close()
        elif ending == "drop":
            stream.drop_waiting()
        stream.end(TokenUsage(1, 2))
        outlet.empty()
        stream.credit(len(data))
        outlet.empty()
        assert body(outlet) == (data if ending == "end" else data[: len(body(outlet))])
        ends = [number for number, frame in enumerate(outlet.frames) if isinstance(frame, End)]
        assert ends == ([] if ending == "cancel" else [len(outlet.frames) - 1])
        assert all(len(frame.data) <= BODY_SLICE for frame in outlet.frames if isinstance(frame, Chunk))
        assert closed == [stream]

    asyncio.run(run())


async def _late(stream: Stream) -> None:
    stream.chunk(b"x")
    stream.end(TokenUsage())


def test_what_a_task_leaves_to_send_is_sent_after_its_end() -> None:
    async def run() -> None:
        outlet = Outlet()
        stream = stream_on(outlet, 0)
        stream.run(_late(stream))
        assert stream.task is not None
        await stream.task
        await asyncio.sleep(0)
        stream.credit(1)
        assert [type(frame) for frame in outlet.frames] == [Chunk, End]

    asyncio.run(run())


def test_nothing_is_sent_after_a_cancellation() -> None:
    async def run() -> None:
        outlet = Outlet()
        stream = stream_on(outlet, 9)
        stream.close()
        stream.answer(200, "text/plain", b"x")
        stream.answer(200, "text/plain", b"x" * 10)
        stream.refuse(503, "text/plain", b"")
        assert not any(isinstance(frame, Answer | Head | Chunk | End) for frame in outlet.frames)

    asyncio.run(run())


def body(outlet: Outlet) -> bytes:
    return b"".join(frame.data for frame in outlet.frames if isinstance(frame, Chunk))
