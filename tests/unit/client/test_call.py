"""Both clients send the same calls; one network that answers from memory stands for the server."""

import inspect
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from modelshare.client import (
    AsyncClient,
    Client,
    ConnectError,
    NotFoundError,
    ServerError,
    UnexpectedAnswerError,
    retry,
)
from modelshare.client.call import at, listed, sent
from modelshare.wire.agents import JoinKeyCreate

pytestmark = pytest.mark.anyio
URL = "http://platform.test"
Answers = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv("MODELSHARE_CONFIG", str(tmp_path / "none.json"))


def client(answers: Answers) -> Client:
    return Client(URL, "ms_key", transport=httpx.MockTransport(answers))


def tier(slug: str) -> dict[str, object]:
    limits = {"max_concurrent_requests": 1, "request_timeout_seconds": 1, "stream_idle_timeout_seconds": 1}
    return {"slug": slug, "name": slug, "category": "free", "may_evict": True, **limits}


def pages(request: httpx.Request) -> httpx.Response:
    after = request.url.params.get("after")
    if after is None:
        return httpx.Response(200, json={"data": [tier("a"), tier("b")], "has_more": True, "next_cursor": "b+/="})
    assert after == "b+/="
    return httpx.Response(200, json={"data": [tier("c")]})


async def test_a_list_walks_all_pages() -> None:
    with client(pages) as waiting:
        assert [item.slug for item in waiting.tiers.list()] == ["a", "b", "c"]
    async with AsyncClient(URL, transport=httpx.MockTransport(pages)) as asynchronous:
        assert [item.slug async for item in asynchronous.tiers.list()] == ["a", "b", "c"]


async def test_both_clients_send_the_same() -> None:
    seen: list[tuple[str, str, bytes, str | None]] = []

    def answers(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url), request.content, request.headers.get("authorization")))
        key = {"id": "1", "name": "box", "tiers": None, "created_at": 1, "expires_at": None, "revoked_at": None}
        return httpx.Response(201, json={**key, "key": "msj_x"})

    body = JoinKeyCreate(name="box", expires_in=None)
    with client(answers) as waiting:
        one = waiting.join_keys.create(body)
    async with AsyncClient(URL, "ms_key", transport=httpx.MockTransport(answers)) as asynchronous:
        other = await asynchronous.join_keys.create(body)
    assert one == other
    assert seen[0] == seen[1]
    assert seen[0] == ("POST", f"{URL}/v1/join-keys", b'{"name":"box","expires_in":null}', "Bearer ms_key")


def test_an_error_has_its_exception_in_both() -> None:
    def answers(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"error": {"message": "None.", "type": "not_found_error"}})

    with client(answers) as waiting, pytest.raises(NotFoundError, match="None"):
        waiting.models.get("x")


def test_a_busy_server_is_asked_again() -> None:
    answers = iter([503, 429, 200])

    def answer(_: httpx.Request) -> httpx.Response:
        error = {"error": {"message": "Busy.", "type": "server_error"}}
        status = next(answers)
        return httpx.Response(status, json={"data": []} if status == 200 else error, headers={"Retry-After": "0"})

    with client(answer) as waiting:
        assert list(waiting.tiers.list()) == []


def test_what_cannot_be_repeated_is_sent_once() -> None:
    count = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return httpx.Response(503, json={"error": {"message": "Busy.", "type": "server_error"}})

    with client(answer) as waiting, pytest.raises(ServerError):
        waiting.keys.rotate("x")
    assert count == 1


async def test_an_unreachable_platform_says_what_to_do() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with client(answer) as waiting, pytest.raises(ConnectError, match="is `modelshare serve` running there"):
        waiting.models.get("x")
    async with AsyncClient(URL, transport=httpx.MockTransport(answer)) as asynchronous:
        with pytest.raises(ConnectError, match=r"Cannot reach http://platform\.test"):
            await asynchronous.models.get("x")


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", json.dumps({"id": 1}).encode()])
def test_an_answer_of_another_form_is_told(body: bytes) -> None:
    with client(lambda _: httpx.Response(200, content=body)) as waiting, pytest.raises(UnexpectedAnswerError):
        waiting.models.get("x")


def test_a_value_never_reaches_another_route() -> None:
    assert at("/v1/models", "../keys", "share") == "/v1/models/..%2Fkeys/share"
    assert at("/v1/models", "a?b#c") == "/v1/models/a%3Fb%23c"


def test_every_method_of_a_resource_is_sent_or_listed() -> None:
    """A resource's method that forgets its decorator would answer a `Call` instead of sending it."""
    with Client(URL) as waiting:
        resources = [value for name, value in vars(waiting).items() if name not in {"http", "config"}]
    assert len(resources) == 16
    for resource in resources:
        assert [name for name, value in vars(type(resource)).items() if inspect.isfunction(value)] == []
        assert any(isinstance(value, sent | listed) for value in vars(type(resource)).values())
