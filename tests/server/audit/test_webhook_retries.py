"""What is sent to a webhook again, when, and when no more."""

import threading
from functools import partial

import pytest

from answers import message, problem
from clock import Clock
from conftest import Tenant
from hooks import Hook, arrive, emit, failing, idle, names, new_hook, outbox_is_empty, wake
from modelshare.server.app import Application
from modelshare.server.audit.webhooks import rules
from receiver import Received, Receiver, Reply, receiving
from served import free_port, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_what_failed_is_sent_again_byte_for_byte(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    await emit(app, owner, "a")
    waiting = await hook.delivery(attempts=1)
    assert (waiting["state"], waiting["status"]) == ("pending", 500)
    assert waiting["error"] == "It answered 500: out of order"
    assert 8 <= waiting["next_attempt_at"] - clock.now + 1 <= 13
    await wake(app)
    receiver.answer = lambda _: Reply()
    clock.now = float(waiting["next_attempt_at"])
    await wake(app)
    done = await hook.delivery(state="delivered")
    assert (done["attempts"], done["status"], done["error"], done["next_attempt_at"]) == (2, 204, None, None)
    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert (await hook.shown())["failures"] == 0


async def test_it_is_given_up_in_the_end_and_can_be_redelivered(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    began = clock.now
    await emit(app, owner, "a")
    for attempt in range(1, rules.MAX_ATTEMPTS):
        pending = await hook.delivery(attempts=attempt, state="pending")
        clock.now = float(pending["next_attempt_at"])
        await wake(app)
    given_up = await hook.delivery(state="failed")
    assert (given_up["attempts"], given_up["next_attempt_at"]) == (rules.MAX_ATTEMPTS, None)
    assert 18 * 3600 < clock.now - began < 33 * 3600, "about a day: 27 hours, each delay varies by a fifth"
    assert len(await hook.deliveries()) == 1

    receiver.answer = lambda _: Reply()
    again = (await owner.http.post(f"{hook.path}/deliveries/{given_up['id']}/redeliver")).json()
    assert again["id"] != given_up["id"]
    assert again["event"] == given_up["event"]
    await hook.delivery(id=again["id"], state="delivered")
    assert len({received.body for received in receiver.received}) == 1


async def test_a_pending_one_is_tried_at_once_instead(
    app: Application, owner: Tenant, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    await emit(app, owner, "a")
    waiting = await hook.delivery(attempts=1)
    receiver.answer = lambda _: Reply()
    asked = await owner.http.post(f"{hook.path}/deliveries/{waiting['id']}/redeliver")
    assert asked.json()["id"] == waiting["id"]
    await hook.delivery(id=waiting["id"], state="delivered", attempts=2)


async def test_410_switches_it_off(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = lambda _: Reply(410)
    await emit(app, owner, "a")
    gone = await hook.delivery(state="failed")
    assert (gone["attempts"], gone["status"]) == (1, 410)
    assert (await hook.shown())["is_active"] is False
    (entry,) = (await owner.http.get("/v1/audit?limit=1")).json()["data"]
    assert (entry["action"], entry["actor"]) == ("webhook.deactivate", "system")
    assert "410" in entry["reason"]
    assert problem(await owner.http.post(f"{hook.path}/test")) == (409, "conflict_error", None)
    refused = await owner.http.post(f"{hook.path}/deliveries/{gone['id']}/redeliver")
    assert "disabled" in message(refused)
    receiver.answer = lambda _: Reply()
    on = await hook.patch(is_active=True)
    assert (on["is_active"], on["failures"], on["retry_at"]) == (True, 0, None)
    await hook.test()
    await hook.delivery(type="webhook.test", state="delivered")


async def test_while_an_address_fails_one_attempt_looks_whether_it_is_back(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    await emit(app, owner, *map(str, range(40)))

    async def paused(failures: int) -> int | None:
        shown = await hook.shown()
        return shown["retry_at"] if shown["failures"] == failures else None

    retry_at = await wait_until(lambda: paused(1))
    assert len(receiver.received) == 8
    await emit(app, owner, "more")
    await wake(app)
    for failures in (2, 3, 4):
        clock.now = float(retry_at)
        await wake(app)
        retry_at = await wait_until(partial(paused, failures))
        assert len(receiver.received) == 8 + failures - 1

    receiver.answer = lambda _: Reply()
    clock.now = float(retry_at)
    await wake(app)

    async def all_delivered() -> bool:
        if await idle(app):
            clock.now += 20  # less than a lease: somebody may just have taken one
            await wake(app)
        return not await hook.deliveries("?state=pending")

    await wait_until(all_delivered)
    assert sorted(set(names(receiver))) == sorted([*map(str, range(40)), "more"])
    assert len(receiver.received) == 11 + 41


async def test_a_hanging_address_keeps_nobody_waiting(
    app: Application, owner: Tenant, deployer: Tenant, hook: Hook, receiver: Receiver
) -> None:
    release = threading.Event()

    def hang(_: Received) -> Reply:
        release.wait(20)
        return Reply()

    with receiving() as dead:
        dead.answer = hang
        theirs = await new_hook(deployer, dead.url)
        await emit(app, deployer, *map(str, range(100)))
        await arrive(dead, 8)
        await emit(app, owner, "quick")
        await hook.delivery(state="delivered")
        assert len(dead.received) == 8, "and it takes no more than its share"
        release.set()

        async def all_delivered() -> bool:
            return len(await theirs.deliveries("?state=delivered&limit=200")) == 100

        await wait_until(all_delivered)


async def test_nothing_listens_there(owner: Tenant) -> None:
    hook = await new_hook(owner, f"http://127.0.0.1:{free_port()}/")
    await hook.test()
    failed = await hook.delivery(attempts=1)
    assert (failed["state"], failed["status"]) == ("pending", None)
    assert failed["error"] == "No connection to `127.0.0.1`: Connection refused."


async def test_a_redirect_is_not_followed(owner: Tenant, hook: Hook, receiver: Receiver) -> None:
    with receiving() as elsewhere:
        receiver.answer = lambda _: Reply(307, {"Location": elsewhere.url})
        await hook.test()
        failed = await hook.delivery(attempts=1)
        assert "redirect" in failed["error"]
        assert (failed["status"], elsewhere.received) == (307, [])


async def test_of_an_answer_a_short_clean_part_is_kept(hook: Hook, receiver: Receiver) -> None:
    receiver.answer = lambda _: Reply(400, body=b"\x1b[31mno\x00\n\nway " + b"\xff" + b"x" * 1_000_000)
    await hook.test()
    error = (await hook.delivery(attempts=1))["error"]
    assert error.startswith("It answered 400: [31mno way \N{REPLACEMENT CHARACTER}xxx")
    assert error.isprintable()
    assert len(error) < 250


async def test_switching_on_again_sends_what_waited(
    app: Application, owner: Tenant, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    await emit(app, owner, "a")
    await hook.delivery(attempts=1)
    await hook.patch(is_active=False)
    await emit(app, owner, "meanwhile")
    await wait_until(lambda: outbox_is_empty(app))
    receiver.answer = lambda _: Reply()
    await hook.patch(is_active=True)
    (waiting,) = await hook.deliveries()
    await owner.http.post(f"{hook.path}/deliveries/{waiting['id']}/redeliver")
    await hook.delivery(state="delivered")
    assert names(receiver) == ["a", "a"], "what happened while it was off is not told"


async def test_a_backlog_older_than_a_day_is_given_up(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    await emit(app, owner, *map(str, range(20)))
    await wait_until(lambda: _is_paused(hook))
    clock.now += rules.GIVE_UP_SECONDS + 1
    await wake(app)

    async def all_failed() -> bool:
        return len(await hook.deliveries("?state=failed")) == 20

    await wait_until(all_failed)
    assert {delivery["error"] for delivery in await hook.deliveries()} == {"It answered 500: out of order"}


async def _is_paused(hook: Hook) -> bool:
    return (await hook.shown())["retry_at"] is not None
