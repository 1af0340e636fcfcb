"""What arrives at a webhook, and what the list of deliveries tells of it."""

import base64
import contextlib
import json
import time
import uuid
from typing import Any

import anyio
import pytest
from sqlalchemy import text
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from answers import problem
from clock import Clock
from conftest import Tenant
from factories import make_model
from hooks import Hook, arrive, emit, failing, names, new_hook, outbox_is_empty
from modelshare.client import WebhookSignatureError, verify_webhook
from modelshare.server.app import Application
from modelshare.server.audit import service as audit
from modelshare.server.audit.webhooks import rules
from modelshare.server.db import notify
from receiver import Receiver, Reply
from served import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("running_app")]


async def test_a_change_arrives_signed(app: Application, owner: Tenant, hook: Hook, receiver: Receiver) -> None:
    model = await make_model(app, owner.project.id)
    await owner.http.post(f"/v1/models/{model}/share")
    delivery = await hook.delivery(state="delivered")
    (received,) = receiver.received
    event = verify_webhook(hook.secret, received.headers, received.body, now=app.platform.clock())
    assert (event.type, event.project) == ("model.shared", owner.project.id)
    assert event.data == {"model": str(model), "name": "tiny", "role": "deployable", "audience": "public"}
    assert event.timestamp.timestamp() == app.platform.now()
    headers = received.headers
    assert headers["webhook-id"] == event.id
    assert headers["Content-Type"] == "application/json"
    assert (delivery["event"], delivery["attempts"], delivery["status"], delivery["error"]) == (event.id, 1, 204, None)
    shown = (await owner.http.get(f"{hook.path}/deliveries/{delivery['id']}")).json()
    assert shown["body"].encode() == received.body


async def test_the_signature_is_what_openssl_says(hook: Hook, receiver: Receiver) -> None:
    await hook.test()
    await arrive(receiver, 1)
    (received,) = receiver.received
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    key = base64.b64decode(hook.secret.removeprefix("whsec_"), validate=True)
    words = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"]
    digest = (await anyio.run_process(words, input=signed)).stdout
    assert received.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


async def test_the_library_of_the_standard_verifies_deliveries(hook: Hook, receiver: Receiver, clock: Clock) -> None:
    clock.now = time.time()
    await hook.test()
    await arrive(receiver, 1)
    (received,) = receiver.received
    verified = Webhook(hook.secret).verify(received.body, dict(received.headers))
    assert list(verified)[:2] == ["type", "timestamp"]
    assert verified["data"] == {"webhook": hook.id}
    with pytest.raises(WebhookVerificationError):
        Webhook(hook.secret).verify(received.body + b" ", dict(received.headers))


async def test_for_a_day_after_a_rotation_both_secrets_sign(hook: Hook, receiver: Receiver, clock: Clock) -> None:
    answer = await hook.http.post(f"{hook.path}/rotate")
    rotated = answer.json()
    assert rotated["secret"] != hook.secret
    assert rotated["old_secret_valid_until"] == int(clock.now) + rules.ROTATION_SECONDS
    await hook.test()
    await arrive(receiver, 1)
    (both,) = receiver.received
    assert len(both.headers["webhook-signature"].split()) == 2
    for secret in (hook.secret, rotated["secret"]):
        assert verify_webhook(secret, both.headers, both.body, now=clock.now).type == "webhook.test"
    clock.now += rules.ROTATION_SECONDS
    await hook.test()
    await arrive(receiver, 2)
    later = receiver.received[1]
    verify_webhook(rotated["secret"], later.headers, later.body, now=clock.now)
    with pytest.raises(WebhookSignatureError):
        verify_webhook(hook.secret, later.headers, later.body, now=clock.now)


async def test_a_secret_is_rotated_by_its_owner_alone(hook: Hook, deployer: Tenant, owner: Tenant) -> None:
    assert problem(await deployer.http.post(f"{hook.path}/rotate")) == (404, "not_found_error", None)
    assert (await hook.http.post(f"{hook.path}/rotate")).status_code == 200
    (entry,) = (await owner.http.get("/v1/audit?limit=1")).json()["data"]
    assert (entry["action"], entry["target"]) == ("webhook.rotate", f"webhook:{hook.id}")


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
    await arrive(receiver, 2)
    await hook.delivery(state="delivered")
    await app.chores.do_all()
    assert len(await hook.deliveries()) == 2
    clock.now += 1
    await app.chores.do_all()
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
    assert list(parsed) == ["type", "timestamp", "id", "project", "data"]
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
