"""Which machine answers a conversation."""

import json
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.router.prefix_routing import (
    Conversations,
    busy_limit,
    conversation_key,
    placed_limit,
    preference,
)

KEYS = st.integers(0, 2**32 - 1)
MACHINES = [str(uuid.UUID(int=number)) for number in range(8)]
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT})


def choose(conversations: Conversations, key: int, count: int, members: list[str] = MACHINES) -> str:
    """Among the first machines, all idle."""
    return conversations.choose(key, MACHINES[:count], [0] * count, members)


def key(
    body: dict[str, Any], *, route: str = "chat/completions", session: bytes = b"", of: bytes = b"one"
) -> int | None:
    return conversation_key(of, route, json.dumps(body).encode(), session)


@given(st.lists(MESSAGE, min_size=1, max_size=3), TEXT, TEXT, st.booleans())
def test_all_turns_of_a_conversation_have_one_key(
    first: list[dict[str, str]], said: str, asked: str, is_indented: bool
) -> None:
    later = [*first, {"role": "assistant", "content": said}, {"role": "user", "content": asked}]
    options = {"tools": [{"type": "function", "function": {"name": "look"}}], "stream": True}
    bodies = [
        json.dumps({"messages": messages, **options}, indent=2 if is_indented else None).encode()
        for messages in (first, later)
    ]
    keys = {conversation_key(b"one", "chat/completions", body) for body in bodies}
    assert len(keys) == 1
    assert keys != {None}


def test_the_role_may_follow_the_text() -> None:
    first = [{"content": "Hi", "role": "user"}]
    later = [*first, {"content": "Hello!", "role": "assistant"}, {"content": "Why?", "role": "user"}]
    assert key({"messages": first}) == key({"messages": later}) is not None


def test_other_words_other_tenants_and_other_sessions_are_other_conversations() -> None:
    one, two = ({"messages": [{"role": "user", "content": text}]} for text in ("Hi", "Hello"))
    quoting = {"messages": [{"role": "user", "content": 'Hi {"role": "assistant"} there'}]}
    found = [key(one), key(two), key(quoting), key(one, of=b"two"), key(one, session=b"s"), key(one, session=b"t")]
    assert len(set(found)) == len(found)
    assert key(one, session=b"s") == key(two, session=b"s")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("embeddings", {"input": "text"}),
        ("chat/completions", {}),
        ("chat/completions", {"messages": []}),
        ("chat/completions", {"messages": None}),
        ("chat/completions", {"messages": "text"}),
    ],
)
def test_a_request_without_a_beginning_has_no_key(route: str, body: dict[str, Any]) -> None:
    assert key(body, route=route) is None


def test_texts_to_complete_are_told_apart_by_their_beginning() -> None:
    long = "x" * 2000
    assert key({"prompt": "a" + long}, route="completions") == key({"prompt": "a" + long + "y"}, route="completions")
    assert key({"prompt": "a" + long}, route="completions") != key({"prompt": "b" + long}, route="completions")


@given(KEYS, st.lists(st.integers(0, 50), min_size=2, max_size=8))
def test_no_machine_gets_more_than_its_part_while_another_has_room(key: int, busy: list[int]) -> None:
    chosen = Conversations().choose(key, MACHINES[: len(busy)], busy, MACHINES)
    assert busy[MACHINES.index(chosen)] + 1 <= busy_limit(sum(busy) + 1, len(busy))


@given(KEYS, st.lists(st.tuples(st.integers(0, 50), st.integers(1, 64)), min_size=2, max_size=8))
def test_machines_of_several_sizes_share_by_size(key: int, machines: list[tuple[int, int]]) -> None:
    busy, sizes = [load for load, _ in machines], [size for _, size in machines]
    chosen = MACHINES.index(Conversations().choose(key, MACHINES[: len(busy)], busy, MACHINES, sizes))
    assert busy[chosen] + 1 <= busy_limit(sum(busy) + 1, sum(sizes) / sizes[chosen])


@given(st.lists(KEYS, unique=True, min_size=1, max_size=200), st.lists(st.integers(1, 64), min_size=2, max_size=8))
def test_conversations_are_spread_by_size(keys: list[int], sizes: list[int]) -> None:
    conversations, ids = Conversations(), MACHINES[: len(sizes)]
    placed = Counter(conversations.choose(key, ids, [0] * len(ids), MACHINES, sizes) for key in keys)
    for name, size in zip(ids, sizes, strict=True):
        assert placed[name] <= placed_limit(len(keys), sum(sizes) / size)


@given(st.lists(KEYS, min_size=1, max_size=60), st.integers(2, 8))
def test_a_conversation_stays_while_loads_allow(keys: list[int], count: int) -> None:
    conversations = Conversations()
    first = {key: choose(conversations, key, count) for key in keys}
    assert {key: choose(conversations, key, count) for key in keys} == first


@given(st.lists(KEYS, unique=True, min_size=1, max_size=200), st.integers(2, 8))
def test_conversations_are_spread_evenly(keys: list[int], count: int) -> None:
    conversations = Conversations()
    placed = Counter(choose(conversations, key, count) for key in keys)
    assert max(placed.values()) <= placed_limit(len(keys), count)


@given(st.lists(KEYS, unique=True, max_size=100), st.integers(3, 8))
def test_a_machine_that_goes_moves_its_own_conversations_alone(keys: list[int], count: int) -> None:
    conversations = Conversations()
    before = {key: choose(conversations, key, count, MACHINES[:count]) for key in keys}
    left = MACHINES[: count - 1]
    for key in keys:
        after = choose(conversations, key, count - 1, left)
        assert after in left
        assert after == before[key] or before[key] not in left


@given(st.lists(KEYS, unique=True, max_size=100), st.integers(2, 7))
def test_a_machine_that_comes_moves_nothing_and_gets_new_conversations(keys: list[int], count: int) -> None:
    conversations = Conversations()
    before = {key: choose(conversations, key, count) for key in keys}
    assert {key: choose(conversations, key, count + 1) for key in keys} == before
    new = range(2**32, 2**32 + len(keys) + count + 1)  # as many as the others have room for, and one
    assert MACHINES[count] in {choose(conversations, key, count + 1) for key in new}


@given(KEYS)
def test_a_conversation_returns_to_its_machine_after_a_pause(key: int) -> None:
    conversations = Conversations()
    home = choose(conversations, key, 4)
    others = [each for each in MACHINES[:4] if each != home]
    assert {conversations.choose(key, others, [0] * 3, MACHINES) for _ in range(3)} < set(others)
    assert choose(conversations, key, 4) == home


def test_every_process_prefers_the_same_machine_and_each_machine_is_preferred_as_often() -> None:
    order = [max(MACHINES[:4], key=lambda name: preference(key, name)) for key in range(4000)]
    assert all(900 < count < 1100 for count in Counter(order).values()), Counter(order)
    assert [MACHINES.index(name) for name in order[:6]] == [3, 3, 3, 2, 3, 1]  # whichever process is asked


def test_only_the_conversations_used_last_are_kept() -> None:
    conversations = Conversations(kept=3)
    for key in (1, 2, 3, 1, 4):
        choose(conversations, key, 2)
    assert len(conversations) == 3
    assert conversations.home(2) is None
    assert conversations.home(1) is not None
