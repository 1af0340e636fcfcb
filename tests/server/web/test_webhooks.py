"""The pages of a project's webhooks."""

import re
from collections.abc import Iterator

import httpx
import pytest

from clock import Clock
from conftest import Tenant
from modelshare.server.settings import Settings
from page_texts import lines, message
from receiver import Receiver, Reply, receiving
from served import wait_until
from server.web.conftest import ON_BOTH_DATABASES, Somebody

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]
HOOKS = "/dashboard/labs/webhooks"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_allow_private": True})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


async def new_hook(somebody: Somebody, url: str, *events: str) -> str:
    """A webhook; the URL of its page."""
    made = await somebody.post(f"{HOOKS}/new", url=url, events=list(events))
    assert re.search(r"whsec_[\w+/]{43}=", made.text), made.text
    found = re.search(rf"{HOOKS}/([0-9a-f-]{{36}})/test", made.text)
    assert found
    return f"{HOOKS}/{found[1]}"


async def test_the_secret_is_rotated(colleague: Somebody, project: str, receiver: Receiver) -> None:
    hook = await new_hook(colleague, receiver.url)
    assert f'href="{hook}/rotate"' in (await colleague.get(hook)).text
    assert "For 24 hours deliveries are signed with both" in (await colleague.get(f"{hook}/rotate")).text
    rotated = await colleague.post(f"{hook}/rotate")
    assert re.search(r"whsec_[\w+/]{43}=", rotated.text), rotated.text
    assert "Deliveries are also signed with the old secret until" in rotated.text


async def settled(somebody: Somebody, delivery: str, state: str) -> httpx.Response:
    """The delivery's page, as soon as it says so."""

    async def check() -> httpx.Response | None:
        answer = await somebody.get(delivery)
        return answer if f">{state}<" in answer.text else None

    return await wait_until(check)


@ON_BOTH_DATABASES
async def test_a_webhook_hears_of_a_test(colleague: Somebody, project: str, receiver: Receiver) -> None:
    assert "No webhooks yet" in (await colleague.get(HOOKS)).text
    hook = await new_hook(colleague, receiver.url, "model.*", "endpoint.created")
    listed = await colleague.get(HOOKS)
    assert "whsec_" not in listed.text
    assert f"{receiver.url} endpoint.created model.* active" in lines(listed)
    sent = await colleague.post(f"{hook}/test")
    delivery = sent.headers["location"]
    page = await settled(colleague, delivery, "delivered")
    assert '"type": "webhook.test"' in lines(page)
    assert "Attempts 1" in lines(page)
    assert receiver.events[0]["type"] == "webhook.test"
    again = await colleague.post(f"{delivery}/redeliver")
    assert again.headers["location"] != delivery
    await settled(colleague, again.headers["location"], "delivered")
    one = await colleague.get(hook)
    assert one.text.count(">delivered</span>") == 2
    assert "No failed deliveries." in lines(await colleague.get(f"{hook}?state=failed"))


async def test_an_address_that_fails_is_said_to(colleague: Somebody, project: str, receiver: Receiver) -> None:
    receiver.answer = lambda _: Reply(500, body=b"out of order")
    hook = await new_hook(colleague, receiver.url)
    delivery = (await colleague.post(f"{hook}/test")).headers["location"]

    async def failed() -> bool:
        return "out of order" in (await colleague.get(delivery)).text

    await wait_until(failed)
    one = lines(await colleague.get(hook))
    assert "1 attempt failed in a row, so nothing is sent before" in one
    assert "It answered 500: out of order" in one
    assert "failing 1 attempt failed in a row; the next one in a moment" in lines(await colleague.get(HOOKS))


async def test_editing(colleague: Somebody, project: str, receiver: Receiver) -> None:
    hook = await new_hook(colleague, receiver.url, "agent.*")
    form = await colleague.get(f"{hook}/edit")
    assert re.findall(r'value="([^"]+)" checked', form.text) == ["agent.*"]
    assert (await colleague.post(f"{hook}/edit", url=receiver.url, events=["model.ready"])).headers["location"] == hook
    assert "Events model.ready Created" in lines(await colleague.get(hook))
    assert (await colleague.post(f"{hook}/edit", url=f"{receiver.url}/new")).headers["location"] == hook
    assert f"{receiver.url}/new everything" in lines(await colleague.get(HOOKS))


async def test_switching_off_and_on(colleague: Somebody, project: str, receiver: Receiver) -> None:
    hook = await new_hook(colleague, receiver.url)
    await colleague.post(f"{hook}/switch", on="false")
    assert "It is disabled: no events are sent" in lines(await colleague.get(hook))
    refused = await colleague.post(f"{hook}/test")
    assert (refused.status_code, "is disabled" in message(refused)) == (409, True)
    await colleague.post(f"{hook}/switch", on="true")
    assert "State active" in lines(await colleague.get(hook))


async def test_deleting(colleague: Somebody, project: str, receiver: Receiver) -> None:
    hook = await new_hook(colleague, receiver.url)
    assert "Pending deliveries and the delivery history are deleted" in lines(await colleague.get(f"{hook}/delete"))
    assert (await colleague.post(f"{hook}/delete")).headers["location"] == HOOKS
    assert (await colleague.get(hook)).status_code == 404


async def test_bad_input(colleague: Somebody, project: str, receiver: Receiver) -> None:
    for form in (
        {"url": "ftp://x.example.org"},
        {"url": "https://me:secret@x.example.org"},
        {"url": receiver.url, "events": "model.eaten"},
        {"events": "model.ready"},
    ):
        refused = await colleague.http.post(f"{HOOKS}/new", data=form)
        assert (refused.status_code, bool(message(refused))) == (400, True)
    hook = await new_hook(colleague, receiver.url)
    assert (await colleague.post(f"{hook}/edit", url="no")).status_code == 400
    assert (await colleague.get(f"{hook}?after=nonsense")).status_code == 400
    assert (await colleague.get(f"{hook}?state=nonsense")).status_code == 200
    assert (await colleague.get(f"{hook}/deliveries/nothing")).status_code == 404


async def test_a_webhook_of_another_project_is_not_there(
    colleague: Somebody, project: str, owner: Tenant, receiver: Receiver
) -> None:
    theirs = (await owner.http.post("/v1/webhooks", json={"url": receiver.url})).json()["id"]
    sent = (await owner.http.post(f"/v1/webhooks/{theirs}/test")).json()["id"]
    for path in ("", "/edit", "/rotate", "/delete", f"/deliveries/{sent}"):
        assert (await colleague.get(f"{HOOKS}/{theirs}{path}")).status_code == 404
    for path in ("/delete", "/rotate", "/test", f"/deliveries/{sent}/redeliver"):
        assert (await colleague.post(f"{HOOKS}/{theirs}{path}")).status_code == 404
    assert (await colleague.post(f"{HOOKS}/{theirs}/switch", on="false")).status_code == 404
    assert (await colleague.post(f"{HOOKS}/{theirs}/edit", url=receiver.url)).status_code == 404
    assert len((await owner.http.get("/v1/webhooks")).json()["data"]) == 1


async def test_who_may_not(browser: httpx.AsyncClient, stranger: Somebody, member: Somebody, project: str) -> None:
    for path in ("", "/new"):
        assert (await browser.get(HOOKS + path)).headers["location"] == f"/sign-in?next={HOOKS}{path}"
        assert (await stranger.get(HOOKS + path)).status_code == 404
        assert (await member.get(HOOKS + path)).status_code == 403
    for somebody, status in ((browser, 303), (stranger.http, 404), (member.http, 403)):
        assert (await somebody.post(f"{HOOKS}/new", data={"url": "https://x.example.org"})).status_code == status
