"""Several projects on one engine: llama.cpp itself, on tiny models, behind a whole agent."""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.agents import ask, pids_under, read_stream, ready, running_agent, tiny_gguf, wanted
from agent.peer import Peer
from agent.support import Storage, wait_until
from modelshare.agent.deployment import Serving
from modelshare.agent.engines.sharing import TenantQueue, Turn
from modelshare.agent.wiring import Agent
from modelshare.wire.link import INITIAL_CREDIT, Answer, Cancel, End, Head, Request

pytestmark = pytest.mark.anyio

TALK = [{"role": "user", "content": "one two three four five six seven eight nine ten " * 20}]
LONG = 200
"""Tokens of a long answer."""


class Projects:
    """Asks the agent as the server does for several projects."""

    def __init__(self, peer: Peer, agent: Agent) -> None:
        self.peer = peer
        self.agent = agent
        self._streams = itertools.count(1)

    async def send(
        self,
        tenant: str,
        body: bytes,
        route: str = "chat/completions",
        *,
        credit: int = INITIAL_CREDIT,
        timeout: float = 120,  # noqa: ASYNC109 - a field of the frame
    ) -> int:
        """Returns the stream's number."""
        stream = next(self._streams)
        await self.peer.send(Request(stream, "dep_1", route, body, False, timeout, credit, tenant))
        return stream

    async def chat(self, tenant: str, **fields: Any) -> dict[str, Any]:
        """A whole answer."""
        return await self.whole(tenant, ask(**fields))

    async def complete(self, tenant: str, **fields: Any) -> dict[str, Any]:
        return await self.whole(tenant, json.dumps(fields).encode(), "completions")

    async def whole(self, tenant: str, body: bytes, route: str = "chat/completions") -> dict[str, Any]:
        answer = await self.answer(await self.send(tenant, body, route))
        assert answer.status == 200, answer.data
        found: dict[str, Any] = json.loads(answer.data)
        usage = found["usage"]
        assert (answer.prompt_tokens, answer.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert not answer.estimated
        return found

    async def answer(self, stream: int) -> Answer:
        return await self.peer.expect(Answer, lambda one: one.stream == stream)

    @property
    def serving(self) -> Serving:
        serving = self.agent.serving("dep_1")
        assert serving is not None
        return serving

    async def idle(self) -> None:
        """Until the engine works on nothing, by its own account."""
        async with asyncio.timeout(20):
            while (load := await self.serving.engine.load()) is None or load.running:  # noqa: ASYNC110 - its own account
                await asyncio.sleep(0.02)


@pytest.fixture
async def projects(peer: Peer, storage: Storage, tmp_path: Path) -> AsyncIterator[Projects]:
    storage.files["model.gguf"] = tiny_gguf(loop=True)
    async with running_agent(peer, storage, tmp_path) as agent:
        await peer.want(wanted(storage))
        await ready(peer)
        yield Projects(peer, agent)


def cached(answer: dict[str, Any]) -> int:
    tokens: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


async def test_nobody_can_tell_what_another_project_asked(projects: Projects) -> None:
    async def asked(tenant: str, **fields: Any) -> int:
        return cached(await projects.chat(tenant, messages=TALK, max_tokens=2, **fields))

    assert await asked("a") == 0
    assert await asked("b") == 0
    assert await asked("a") > 100, "its own prompt is found again"
    assert await asked("b") > 100
    for number in range(10):  # more projects than slots: each takes over one that another has used
        assert await asked(f"other {number}") == 0
    assert await asked("") == 0
    assert await asked("") == 0, "without a name nothing is one's own"


async def test_a_slot_is_nobodys_own_until_the_engine_has_worked_for_him(projects: Projects) -> None:
    assert cached(await projects.chat("a", messages=TALK, max_tokens=2)) == 0
    slots = projects.serving.engine.turns.slots
    others = [[{"role": "user", "content": f"{number} " * 500}] for number in range(slots - 1)]
    for messages in (*others, TALK):  # the engine refuses all of them, and each slot keeps what it holds
        refused = ask(messages=messages, grammar="root ::= (")
        assert (await projects.answer(await projects.send("b", refused))).status == 400
    assert cached(await projects.chat("b", messages=TALK, max_tokens=2)) == 0


async def test_nothing_of_the_engine_shows(projects: Projects) -> None:
    answer = await projects.chat("a", messages=TALK, max_tokens=2)
    assert answer.keys() <= {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    stream = await projects.send("a", ask(messages=TALK, max_tokens=2, stream=True, n=2))
    events, _ = await read_stream(projects.peer, stream)
    assert b"timings" not in events
    assert b"slot" not in events


@pytest.mark.parametrize("field", ["id_slot", "cache_prompt", "cache_salt", "n_cache_reuse", "extra_key", "slot_id"])
async def test_a_client_does_not_choose_a_slot_or_a_cache(projects: Projects, field: str) -> None:
    answer = await projects.answer(await projects.send("a", ask(**{field: 1})))
    assert (answer.status, json.loads(answer.data)["error"]["param"]) == (400, field)


async def test_choices_of_a_chat_are_counted_each(projects: Projects) -> None:
    one = await projects.chat("a", max_tokens=5)
    four = await projects.chat("a", max_tokens=5, n=4, seed=1, temperature=1.5)
    assert [choice["index"] for choice in four["choices"]] == [0, 1, 2, 3]
    assert four["usage"]["completion_tokens"] == 4 * one["usage"]["completion_tokens"] == 20
    assert four["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert four["model"] == "acme/tiny"


async def test_seeds_differ_and_are_the_same_again(projects: Projects) -> None:
    async def texts() -> list[str]:
        body = {"prompt": ["He", "She"], "n": 3, "seed": 7, "temperature": 100, "max_tokens": 8, "top_k": 0}
        answer = await projects.complete("a", **body, min_p=0, top_p=1)
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        assert answer["usage"]["completion_tokens"] <= 48
        return [choice["text"] for choice in answer["choices"]]

    first = await texts()
    assert len(set(first)) > 3
    assert await texts() == first


async def test_several_prompts_are_answered_in_their_order(projects: Projects) -> None:
    prompts = ["one two", " five six", [294, 295]]
    assert len({type(prompt) for prompt in prompts}) == 2
    body = {"prompt": prompts[:2], "max_tokens": 2, "temperature": 0, "n": 2}
    answer = await projects.complete("a", **body)
    assert [choice["text"] for choice in answer["choices"]] == [" three four"] * 2 + [" seven eight"] * 2
    singly = [await projects.complete("a", prompt=one, max_tokens=2, temperature=0) for one in prompts[:2]]
    assert answer["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in singly)
    assert answer["usage"]["completion_tokens"] == 8


async def test_sequences_are_streamed_and_counted_as_one_answer(projects: Projects) -> None:
    body = {"prompt": ["one two"] * 3, "n": 2, "max_tokens": 40, "stream": True, "temperature": 0}
    stream = await projects.send(
        "a", json.dumps(body | {"stream_options": {"include_usage": True}}).encode(), "completions"
    )
    streamed, end = await read_stream(projects.peer, stream)
    *events, done, rest = streamed.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    contents = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({content["id"] for content in contents}) == 1
    assert {content["model"] for content in contents} == {"acme/tiny"}
    *pieces, last = contents
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 240)
    assert all(piece.get("usage") is None for piece in pieces)
    texts = dict.fromkeys(range(6), "")
    for piece in pieces:
        texts[piece["choices"][0]["index"]] += piece["choices"][0]["text"]
    assert len(set(texts.values())) == 1
    assert (end.error, end.completion_tokens, end.estimated) == (None, 240, False)


async def test_one_sequence_that_fails_fails_all(projects: Projects) -> None:
    body = {"prompt": ["one", "two " * 3000], "max_tokens": LONG}
    answer = await projects.answer(await projects.send("a", json.dumps(body).encode(), "completions"))
    assert (answer.status, json.loads(answer.data)["error"]["code"]) == (400, "context_length_exceeded")
    await projects.idle()


CHAT = {"max_tokens": LONG, "stream": True}
FLOODS = {
    "requests": [(ask(**CHAT), "chat/completions")] * 64,
    "choices": [(ask(**CHAT, n=8), "chat/completions")] * 8,
    "prompts": [(json.dumps(CHAT | {"prompt": ["one two"] * 64}).encode(), "completions")],
}
"""64 long sequences."""


@pytest.mark.parametrize("flood", FLOODS)
async def test_beside_64_long_sequences_a_short_chat_gets_the_next_slot(
    projects: Projects, flood: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    turns = projects.serving.engine.turns
    begun: list[str] = []

    def assign(turn: Turn) -> None:
        begun.append(turn.tenant)
        TenantQueue._assign(turns, turn)

    (pid,) = pids_under(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    long = [await projects.send("long", body, route, credit=1 << 30) for body, route in FLOODS[flood]]
    await wait_until(lambda: turns.waiting == 64 - turns.slots)
    short = await projects.send("short", ask(max_tokens=1))
    await wait_until(lambda: turns.waiting == 65 - turns.slots)
    monkeypatch.setattr(turns, "_assign", assign)
    os.kill(pid, signal.SIGCONT)
    assert (await projects.answer(short)).status == 200
    assert begun[0] == "short", "in the order of arrival, all others would have been before it"
    for stream in long:
        await projects.peer.send(Cancel(stream))
    await projects.idle()
    assert turns.waiting == 0


async def test_a_client_that_reads_nothing_keeps_no_slot(projects: Projects) -> None:
    engine = projects.serving.engine
    for _ in range(engine.turns.slots):
        await projects.send("stuck", ask(stream=True, max_tokens=LONG), credit=100)
    await wait_until(lambda: engine.activity.running == engine.turns.slots)
    assert (await projects.chat("other", max_tokens=2))["usage"]["completion_tokens"] == 2
    assert engine.activity.running == engine.turns.slots


async def test_what_waits_is_out_of_time_like_the_rest(projects: Projects, tmp_path: Path) -> None:
    engine = projects.serving.engine
    (pid,) = pids_under(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(engine.turns.slots):
        await projects.send("a", ask(stream=True, max_tokens=2000))
    await wait_until(lambda: engine.turns.running == engine.turns.slots)
    late = await projects.send("b", ask(max_tokens=1), timeout=0.05)
    assert (await projects.answer(late)).status == 504
    assert engine.turns.waiting == 0
    os.kill(pid, signal.SIGCONT)
    await projects.peer.expect(Head)
    assert not [one for one in projects.peer.frames if isinstance(one, End) and one.error]
