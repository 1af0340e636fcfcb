"""`modelshare webhooks …`."""

from itertools import islice
from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import when
from modelshare.cli.formatting import yes as yes_or_no
from modelshare.cli.output import Json, print_json, print_message, print_record, print_table
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.webhooks import Delivery, DeliveryState, Webhook, WebhookCreate, WebhookPatch, WebhookWithSecret

app = typer.Typer(add_completion=False)
WebhookId = Annotated[
    str, typer.Argument(metavar="WEBHOOK", help="ID of the webhook, as shown by `modelshare webhooks list`.")
]
DeliveryId = Annotated[
    str, typer.Argument(metavar="DELIVERY", help="ID of the delivery, as shown by `modelshare webhooks deliveries`.")
]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="EVENT", help="Event, such as model.ready or endpoint.*; repeat for more."),
]


@app.command("list")
def list_webhooks(json: Json = False) -> None:
    """List the project's webhooks, without their secrets."""
    with Client() as client:
        webhooks = list(client.webhooks.list())
    if json:
        print_json(webhooks)
        return
    rows = ((item.url, ", ".join(item.events) or "all", _state(item), item.id) for item in webhooks)
    empty = "No webhooks yet. Create one: `modelshare webhooks create URL`."
    print_table(("URL", "EVENTS", "STATE", "ID"), rows, empty=empty)


@app.command()
def create(
    url: Annotated[
        str, typer.Argument(help="URL that receives the events, such as https://example.org/hooks/modelshare.")
    ],
    event: Events = None,
    json: Json = False,
) -> None:
    """Create a webhook, for all events unless some are given. Its secret is shown only once."""
    with Client() as client:
        created = client.webhooks.create(request(WebhookCreate, url=url, events=event))
    _print_secret(created, json=json)


@app.command()
def rotate(webhook: WebhookId, json: Json = False) -> None:
    """Rotate a webhook's secret. The new one is shown only once; the old one also signs for 24 hours."""
    with Client() as client:
        rotated = client.webhooks.rotate_secret(webhook)
    _print_secret(rotated, json=json)


@app.command()
def show(webhook: WebhookId, json: Json = False) -> None:
    """Show a webhook: its URL, its events and whether deliveries succeed."""
    with Client() as client:
        found = client.webhooks.get(webhook)
    _print(found, json=json)


@app.command()
def update(
    webhook: WebhookId,
    url: Annotated[str | None, typer.Option(help="New URL.")] = None,
    event: Events = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Send all events.")] = False,
    on: Annotated[
        bool | None, typer.Option("--on/--off", help="Enable or disable the webhook. Enabling it resets its failures.")
    ] = None,
    json: Json = False,
) -> None:
    """Edit a webhook's URL or events, or enable or disable it. Its secret stays the same."""
    if all_events and event:
        raise CommandError("Use --all-events or --event, not both.", ExitCode.USAGE)
    changes = request(WebhookPatch, url=url, events=[] if all_events else event, is_active=on)
    with Client() as client:
        found = client.webhooks.update(webhook, changes)
    _print(found, json=json)


@app.command()
def delete(webhook: WebhookId, yes: Yes = False, json: Json = False) -> None:
    """Delete a webhook and its deliveries."""
    confirm(f"Delete the webhook {webhook}?", yes=yes)
    with Client() as client:
        client.webhooks.delete(webhook)
    if json:
        print_json({"id": webhook, "deleted": True})
    else:
        print_message("Deleted.")


@app.command("test")
def send_test(webhook: WebhookId, json: Json = False) -> None:
    """Send a `webhook.test` event."""
    with Client() as client:
        sent = client.webhooks.test(webhook)
    _print_sent(sent, json=json)


@app.command()
def deliveries(
    webhook: WebhookId,
    state: Annotated[DeliveryState | None, typer.Option(help="Only deliveries in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of deliveries to show.")] = 50,
    json: Json = False,
) -> None:
    """List the deliveries of the last 30 days, newest first."""
    with Client() as client:
        listed = client.webhooks.deliveries(webhook, state=state, limit=min(limit, PAGE_LIMIT_MAX))
        found = list(islice(listed, limit))
    if json:
        print_json(found)
        return
    rows = (
        (when(item.created_at), item.type, item.state, str(item.attempts), item.error or "", item.id) for item in found
    )
    columns = ("TIME (UTC)", "EVENT", "STATE", "ATTEMPTS", "ERROR", "ID")
    print_table(columns, rows, empty="No deliveries yet.")


@app.command()
def redeliver(webhook: WebhookId, delivery: DeliveryId, json: Json = False) -> None:
    """Deliver an event again."""
    with Client() as client:
        sent = client.webhooks.redeliver(webhook, delivery)
    _print_sent(sent, json=json)


def _print_secret(webhook: WebhookWithSecret, *, json: bool) -> None:
    if json:
        print_json(webhook)
        return
    print_message("This secret signs the deliveries and is shown only once:")
    typer.echo(webhook.secret)
    if webhook.old_secret_valid_until is not None:
        print_message(
            f"Deliveries are also signed with the old secret until {when(webhook.old_secret_valid_until)} UTC."
        )
    print_message(f"Next: modelshare webhooks test {webhook.id}")


def _print(webhook: Webhook, *, json: bool) -> None:
    if json:
        print_json(webhook)
        return
    print_record(
        (
            ("webhook", webhook.id),
            ("URL", webhook.url),
            ("events", ", ".join(webhook.events) or "all"),
            ("on", yes_or_no(webhook.is_active)),
            ("failures", str(webhook.failures) if webhook.failures else None),
            ("next attempt", when(webhook.retry_at)),
            ("old secret valid until", when(webhook.old_secret_valid_until)),
            ("created", when(webhook.created_at)),
        )
    )


def _print_sent(delivery: Delivery, *, json: bool) -> None:
    if json:
        print_json(delivery)
        return
    typer.echo(delivery.id)
    print_message(f"Delivery queued. See its result with: modelshare webhooks deliveries {delivery.webhook}")


def _state(webhook: Webhook) -> str:
    if not webhook.is_active:
        return "off"
    return f"failing, next attempt {when(webhook.retry_at)} UTC" if webhook.retry_at else "on"
