"""`modelshare audit`."""

from itertools import islice
from typing import Annotated

import typer

from modelshare.cli.output import Json, print_json, print_table
from modelshare.cli.words import when
from modelshare.client import Client
from modelshare.wire.base import PAGE_LIMIT_MAX

app = typer.Typer(add_completion=False)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, help="Most entries to show.")] = 50,
    json: Json = False,
) -> None:
    """Show who did what in your project, newest first."""
    with Client() as client:
        entries = list(islice(client.audit.list(limit=min(limit, PAGE_LIMIT_MAX)), limit))
    if json:
        print_json(entries)
        return
    rows = ((when(item.at), item.actor, item.action, item.target, item.outcome, item.reason or "") for item in entries)
    print_table(("TIME (UTC)", "WHO", "WHAT", "ON", "OUTCOME", "REASON"), rows, empty="Nothing happened yet.")
