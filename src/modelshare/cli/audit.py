"""`modelshare audit`."""

from itertools import islice
from typing import Annotated

import typer

from modelshare.cli.formatting import when
from modelshare.cli.output import Json, print_json, print_table
from modelshare.client import Client
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.usage import AuditEntry, AuditOutcome

app = typer.Typer(add_completion=False)


@app.command()
def audit(
    action: Annotated[
        str | None,
        typer.Option(help="Only this action, such as model.share, or all actions on a subject, such as model."),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only actions by this actor, as shown in the WHO column.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Only actions on this object, as shown in the ON column, or model:NAME.")
    ] = None,
    outcome: Annotated[
        AuditOutcome | None, typer.Option(help="Only actions that were done, or only those that were refused.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries to show.")] = 50,
    json: Json = False,
) -> None:
    """Show who did what in your project, newest first."""
    with Client() as client:
        found = client.audit.list(
            action=action, actor=actor, target=target, outcome=outcome, limit=min(limit, PAGE_LIMIT_MAX)
        )
        entries = list(islice(found, limit))
    if json:
        print_json(entries)
        return
    rows = (
        (when(item.at), item.actor, item.action, item.target, item.outcome, confirmed(item), item.reason or "")
        for item in entries
    )
    columns = ("TIME (UTC)", "WHO", "WHAT", "ON", "OUTCOME", "CONFIRMED", "REASON")
    asked = any((action, actor, target, outcome))
    print_table(columns, rows, empty="No entries match." if asked else "No entries yet.")


def confirmed(entry: AuditEntry) -> str:
    """`3 processes, 12 ms`: how many processes applied the change, and how long the last one took.

    `2 of 3 processes` until all have.
    """
    done, everybody = len(entry.confirmations), len(entry.confirmations) + len(entry.pending)
    if not everybody:
        return ""
    count = f"{done} of {everybody}" if entry.pending else f"{done}"
    last = max((one.after_ms for one in entry.confirmations), default=None)
    return f"{count} process{'es' if everybody > 1 else ''}{'' if last is None else f', {last} ms'}"
