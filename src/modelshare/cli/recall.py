"""`modelshare recall`."""

import time
from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import duration, moment, when
from modelshare.cli.output import Json, one_line, print_json, print_table, say
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import own_model
from modelshare.client import Client
from modelshare.wire.sharing import Recall, RecallRequest

app = typer.Typer(add_completion=False)


@app.command()
def recall(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model ID, name, or OWNER/NAME.")],
    *,
    within: Annotated[
        int | None,
        typer.Option(
            "--in", parser=duration, metavar="DURATION", help="When endpoints stop, such as 15m or 7d from now."
        ),
    ] = None,
    on: Annotated[
        int | None,
        typer.Option(
            "--on",
            parser=moment,
            metavar="TIME",
            help="Date and time in UTC when endpoints stop, such as 2027-01-31T12:00.",
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Stop endpoints immediately.")] = False,
    reason: Annotated[str | None, typer.Option(help="Reason, shown to every deployer.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the recall.")] = False,
    close: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Stop waiting for this machine's confirmation; its ID is in the list."),
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Recall a model: unshare it, stop other projects' endpoints at a deadline and have the weights deleted.

    Without --in, --on, --now, --cancel or --close, show the state of a recall.
    """
    if sum((within is not None, on is not None, now, cancel, close is not None)) > 1:
        raise CommandError("Use only one of --in, --on, --now, --cancel and --close.", ExitCode.USAGE)
    deadline = _deadline(within, on, now=now)
    if reason is not None and deadline is None:
        words = "--reason needs a recall. Add when endpoints stop: --on TIME, --in DURATION or --now."
        raise CommandError(words, ExitCode.USAGE)
    with Client() as client:
        found = own_model(client, model)
        if cancel:
            state = client.models.recall(found.id, RecallRequest(deadline=None))
        elif close is not None:
            confirm(f"Count {close} as holding no weights of {found.name}? It has not confirmed this.", yes=yes)
            client.models.close_weight_deletion(found.id, close)
            state = client.models.recall_state(found.id)
        elif deadline is not None:
            if not reason:
                raise CommandError(
                    "A recall needs a reason, which deployers are shown. Add --reason TEXT.", ExitCode.USAGE
                )
            stops = "now" if now else f"on {when(deadline)} UTC"
            confirm(f"Recall {found.name}? Endpoints of other projects will stop {stops}.", yes=yes)
            state = client.models.recall(found.id, request(RecallRequest, deadline=deadline, reason=reason))
        else:
            state = client.models.recall_state(found.id)
    if json:
        print_json(state)
    else:
        _print(found.name, state)


def _deadline(within: int | None, on: int | None, *, now: bool) -> int | None:
    """Unix seconds; None if no recall was requested."""
    today = int(time.time())
    if on is not None and on <= today:  # a wrong year must not stop everything at once
        raise CommandError(f"{when(on)} UTC has passed. Give a later time, or use --now.", ExitCode.USAGE)
    if on is not None:
        return on
    return today + (within or 0) if now or within is not None else None


def _print(name: str, state: Recall) -> None:
    notice = state.notice
    if notice is None:
        say(f"{name} is not recalled. It returns to the catalog only if you share it again.")
        if not state.weight_deletions:
            return
    else:
        stopped = notice.stopped_at
        stops = f"stop at {when(notice.deadline)}" if stopped is None else f"stopped at {when(stopped)}"
        say(f"{name} is recalled: endpoints of other projects {stops} UTC. {one_line(notice.reason)}")
    say(
        f"Endpoints still serving: {state.endpoints_serving}. Machines that may hold the weights: "
        f"{state.machines_holding}."
    )
    if waited_for := state.unconfirmed:
        say(
            f"Unconfirmed deletions: {len(waited_for)}, since {when(waited_for[-1].asked_at)} UTC. --close ID stops "
            "waiting for one."
        )
    rows = (
        (
            release.project or "(a shared machine)",
            release.version,
            when(release.asked_at),
            when(release.confirmed_at)
            or (f"never; closed {when(release.closed_at)}" if release.closed_at else "not yet"),
            release.deployment,
        )
        for release in state.weight_deletions
    )
    print_table(
        ("PROJECT", "VERSION", "DELETION REQUESTED (UTC)", "CONFIRMED", "ID"),
        rows,
        empty="No machine has been asked to delete weights yet.",
    )
