"""What arrives at a webhook, what is tried again, and what the list of deliveries tells of it."""

import contextlib
import json
import threading
import uuid
from functools import partial
from typing import Any

import anyio
import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from answers import message, problem
from clock import Clock
from conftest import Tenant
from factories import make_model
from hooks import Hook, new_hook
from modelshare.client import verify_webhook
from modelshare.server.app import Application, _tend
from modelshare.server.audit import service as audit
from modelshare.server.audit.webhooks import queries, rules
from modelshare.server.audit.webhooks.jobs import DELIVER
from modelshare.server.db import notify
from modelshare.server.jobs import TOPIC, JobRow
from receiver import Received, Receiver, Reply, receiving
from served import free_port, wait_until

pytestmark = pytest.mark.anyio


async def emit(app: Application, tenant: Tenant, *names: str, type_: str = "model.ready") -> None:
    """Events as a change would emit them, in one transaction."""
    async with app.database.write() as session:
        for name in names:
            audit.emit(session, project_id=tenant.project.id, now=app.platform.now(), event=type_, data={"name": name})


async def wake(app: Application) -> None:
    """Makes the worker look at the clock now instead of at its next round."""
    async with app.database.write() as session:
        notify(session, TOPIC, DELIVER)


async def idle(app: Application) -> bool:
    """Nobody is delivering, so that no lease runs out when the clock is turned."""
    async with app.database.read() as session:
        return await session.scalar(select(JobRow).where(JobRow.lease_token.is_not(None))) is None


async def outbox_is_empty(app: Application) -> bool:
    async with app.database.read() as session:
        return not await queries.has_events(session)


async def arrive(receiver: Receiver, count: int) -> None:
    async def there() -> bool:
        return len(receiver.received) >= count

    await wait_until(there)


def names(receiver: Receiver) -> list[str]:
    return [event["data"]["name"] for event in receiver.events]


def failing(_: Received) -> Reply:
    return Reply(500, body=b"out of order")


async def test_a_change_arrives_signed(app: Application, owner: Tenant, hook: Hook, receiver: Receiver) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    delivery = await hook.delivery(state="delivered")
    (received,) = receiver.received
    event = verify_webhook(hook.secret, received.headers, received.body, now=app.platform.clock())
    assert (event.type, event.project) == ("model.shared", owner.project.id)
    assert event.data == {"model": str(model), "name": "tiny", "role": "deployable", "audience": "public"}
    assert event.created == app.platform.now()
    headers = received.headers
    assert (headers["X-Modelshare-Event"], headers["X-Modelshare-Event-Id"]) == (event.type, event.id)
    assert headers["X-Modelshare-Delivery"] == delivery["id"]
    assert headers["Content-Type"] == "application/json"
    assert (delivery["event"], delivery["attempts"], delivery["status"], delivery["error"]) == (event.id, 1, 204, None)
    shown = (await owner.http.get(f"{hook.path}/deliveries/{delivery['id']}")).json()
    assert shown["body"].encode() == received.body


async def test_the_signature_is_what_openssl_says(hook: Hook, receiver: Receiver) -> None:
    await hook.test()
    await arrive(receiver, 1)
    (received,) = receiver.received
    signed = received.headers["X-Modelshare-Timestamp"].encode() + b"." + received.body
    words = ["openssl", "dgst", "-sha256", "-hmac", hook.secret, "-hex"]
    said = (await anyio.run_process(words, input=signed)).stdout.decode().split()[-1]
    assert received.headers["X-Modelshare-Signature"] == f"v1={said}"


async def test_each_hears_of_what_it_asked_for(
    app: Application, owner: Tenant, deployer: Tenant, hook: Hook, receiver: Receiver
) -> None:
    one = await new_hook(owner, receiver.url, "model.failed")
    kind = await new_hook(owner, receiver.url, "agent.*", "model.failed")
    off = await new_hook(owner, receiver.url)
    await off.patch(is_active=False)
    theirs = await new_hook(deployer, receiver.url)
    for type_ in ("model.ready", "agent.removed", "model.failed"):
        await emit(app, owner, type_, type_=type_)
    await arrive(receiver, 6)
    for each, expected in ((hook, 3), (one, 1), (kind, 2), (off, 0), (theirs, 0)):
        assert len(await each.deliveries()) == expected
    assert len({event["id"] for event in receiver.events}) == 3, "an event has one id, for whomever it is"


async def test_what_was_rolled_back_is_never_told(
    app: Application, owner: Tenant, hook: Hook, receiver: Receiver
) -> None:
    with contextlib.suppress(RuntimeError):
        async with app.database.write() as session:
            audit.emit(session, project_id=owner.project.id, now=1, event="model.ready", data={"name": "never"})
            await session.flush()
            raise RuntimeError
    await emit(app, owner, "done")
    await arrive(receiver, 1)
    assert names(receiver) == ["done"]


async def test_an_event_is_moved_whole_or_not_at_all(
    app: Application, owner: Tenant, hook: Hook, receiver: Receiver
) -> None:
    """Asking for the job is the last step, and cannot be done here: the event is still in the outbox."""
    async with app.database.write() as session:
        await session.execute(text("ALTER TABLE jobs RENAME TO away"))
    with capture_logs() as logs:
        await emit(app, owner, "a")

        async def failed() -> bool:
            return any(entry["event"] == "cannot move events from the outbox" for entry in logs)

        await wait_until(failed)
    assert not await outbox_is_empty(app)
    assert await hook.deliveries() == []
    async with app.database.write() as session:
        await session.execute(text("ALTER TABLE away RENAME TO jobs"))
        notify(session, audit.OUTBOX_TOPIC, "*")
    await hook.delivery(state="delivered")
    assert names(receiver) == ["a"]


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
    assert first.headers["X-Modelshare-Event-Id"] == second.headers["X-Modelshare-Event-Id"]
    assert first.headers["X-Modelshare-Timestamp"] != second.headers["X-Modelshare-Timestamp"]
    assert (await hook.shown())["failures"] == 0


async def test_it_is_given_up_in_the_end_and_can_be_redelivered(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = failing
    began = clock.now
    await emit(app, owner, "a")
    for attempt in range(1, rules.MOST_ATTEMPTS):
        pending = await hook.delivery(attempts=attempt, state="pending")
        clock.now = float(pending["next_attempt_at"])
        await wake(app)
    given_up = await hook.delivery(state="failed")
    assert (given_up["attempts"], given_up["next_attempt_at"]) == (rules.MOST_ATTEMPTS, None)
    assert 18 * 3600 < clock.now - began < rules.GIVE_UP_SECONDS, "about a day"
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
    assert "switched off" in message(refused)
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


async def test_the_list_is_paged_newest_first_and_filtered(
    app: Application, owner: Tenant, hook: Hook, receiver: Receiver
) -> None:
    receiver.answer = lambda received: Reply(204 if received.event["data"]["name"] != "2" else 410)
    for number in range(3):
        await emit(app, owner, str(number))
        await arrive(receiver, number + 1)
    await hook.delivery(state="failed")
    first = (await owner.http.get(f"{hook.path}/deliveries?limit=2")).json()
    rest = (await owner.http.get(f"{hook.path}/deliveries?limit=2&after={first['next_cursor']}")).json()
    states = [item["state"] for item in first["data"] + rest["data"]]
    assert states == ["failed", "delivered", "delivered"]
    assert rest["has_more"] is False
    assert len(await hook.deliveries("?state=delivered")) == 2
    assert await hook.deliveries("?state=pending") == []


async def test_after_thirty_days_they_are_gone(
    app: Application, owner: Tenant, clock: Clock, hook: Hook, receiver: Receiver
) -> None:
    await emit(app, owner, "old")
    old = await hook.delivery(state="delivered")
    clock.now += rules.KEEP_SECONDS
    await emit(app, owner, "new")
    await hook.delivery(state="delivered")
    await _tend(app.platform)
    assert len(await hook.deliveries()) == 2
    clock.now += 1
    await _tend(app.platform)
    assert old["id"] not in [item["id"] for item in await hook.deliveries()]
    assert len(await hook.deliveries()) == 1


async def test_deleted_with_what_waited(app: Application, owner: Tenant, hook: Hook, receiver: Receiver) -> None:
    receiver.answer = failing
    await emit(app, owner, "a")
    waiting = await hook.delivery(attempts=1)
    assert (await owner.http.delete(hook.path)).status_code == 204
    assert (await owner.http.get(f"{hook.path}/deliveries/{waiting['id']}")).status_code == 404
    other = await new_hook(owner, receiver.url)
    receiver.answer = lambda _: Reply()
    await other.test()
    await other.delivery(state="delivered")
    assert len(receiver.received) == 2


async def test_many_events_drain_each_once(app: Application, owner: Tenant, hook: Hook, receiver: Receiver) -> None:
    wanted = [f"{number:04}" for number in range(2000)]
    await emit(app, owner, *wanted)

    async def all_there() -> bool:
        return len(receiver.received) >= len(wanted)

    await wait_until(all_there, seconds=60)
    await wait_until(lambda: _none_pending(hook))
    assert sorted(names(receiver)) == wanted


async def _none_pending(hook: Hook) -> bool:
    return not await hook.deliveries("?state=pending")


async def test_events_are_json_in_ascii(app: Application, owner: Tenant, hook: Hook, receiver: Receiver) -> None:
    await emit(app, owner, "käse \U0001f9c0 \ud800" if app.database.is_sqlite else "käse \U0001f9c0")
    await arrive(receiver, 1)
    body = receiver.received[0].body
    assert body.isascii()
    parsed: dict[str, Any] = json.loads(body)
    assert list(parsed) == ["id", "type", "created", "project", "data"]
    assert uuid.UUID(parsed["id"]).version == 7


async def test_a_model_of_another_project_is_named_by_id_and_by_its_owner(
    app: Application, owner: Tenant, deployer: Tenant, receiver: Receiver
) -> None:
    model = str(await make_model(app, owner.project.id))
    hook = await new_hook(deployer, receiver.url, "model.invited")
    await owner.http.post(f"/v1/models/{model}/share", json={"audience": {"projects": ["borg"]}})
    told = await hook.delivery(type="model.invited")
    shown = (await deployer.http.get(f"{hook.path}/deliveries/{told['id']}")).json()
    assert json.loads(shown["body"])["data"] == {"model": model, "name": "acme/tiny"}
