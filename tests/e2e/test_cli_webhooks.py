"""`modelshare webhooks …` against a real server and a real receiver."""

from pathlib import Path

from standardwebhooks import Webhook

from modelshare.client import verify_webhook
from programs import serving, wait_until
from receiver import receiving
from shell import shell


def test_from_making_to_deleting(tmp_path: Path) -> None:
    with receiving() as receiver, serving(tmp_path / "platform", webhooks_allow_private="true") as server:
        owner = shell(server.url, server.project("acme").api_key, tmp_path / "owner")
        assert "No webhooks yet" in owner.says("webhooks", "list")
        assert "`model.gone`" in owner.refused("webhooks", "create", receiver.url, "--event", "model.gone")
        made = owner.run("webhooks", "create", receiver.url, "--event", "model.*")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.strip()
        hook = made.stderr.split()[-1]
        assert f"modelshare webhooks test {hook}" in made.stderr

        sent = owner.run("webhooks", "test", hook).stdout.strip()
        wait_until(lambda: receiver.received, "the test arrives")
        (received,) = receiver.received
        assert verify_webhook(secret, received.headers, received.body).type == "webhook.test"
        wait_until(lambda: owner.json("webhooks", "deliveries", hook, "--state", "delivered"), "it is delivered")
        assert sent in owner.says("webhooks", "deliveries", hook)

        again = owner.json("webhooks", "redeliver", hook, sent)
        assert (again["webhook"], again["type"]) == (hook, "webhook.test")
        wait_until(lambda: len(receiver.received) == 2, "it arrives again")

        rotated = owner.json("webhooks", "rotate", hook)
        assert rotated["secret"] != secret
        owner.run("webhooks", "test", hook)
        wait_until(lambda: len(receiver.received) == 3, "it arrives")
        last = receiver.received[-1]
        for each in (secret, rotated["secret"]):
            assert Webhook(each).verify(last.body, dict(last.headers))["type"] == "webhook.test"

        assert owner.json("webhooks", "show", hook)["events"] == ["model.*"]
        assert owner.json("webhooks", "update", hook, "--all-events", "--off")["events"] == []
        assert "off" in owner.says("webhooks", "list")
        assert "disabled" in owner.refused("webhooks", "test", hook)
        assert owner.json("webhooks", "update", hook, "--on")["is_active"] is True
        assert owner.json("webhooks", "delete", hook, "--yes") == {"id": hook, "deleted": True}
        assert owner.json("webhooks", "list") == []
