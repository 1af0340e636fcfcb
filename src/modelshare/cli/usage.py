"""`modelshare usage`."""

from itertools import islice
from typing import Annotated

import typer

from modelshare.cli.output import Json, print_json, print_table
from modelshare.client import Client

app = typer.Typer()


@app.command()
def usage(
    limit: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 100,
    json: Json = False,
) -> None:
    """Show requests and tokens by day, endpoint, model and key."""
    with Client() as client:
        rows = list(islice(client.usage.list(limit=min(limit, 200)), limit))
    if json:
        print_json(rows)
        return
    lines = (
        (
            row.day,
            row.endpoint or "",
            row.model or "",
            row.key or "",
            f"{row.requests:,}",
            f"{row.errors:,}",
            f"{row.prompt_tokens:,}",
            f"{row.completion_tokens:,}",
        )
        for row in rows
    )
    columns = ("DAY (UTC)", "ENDPOINT", "MODEL", "KEY", "REQUESTS", "ERRORS", "PROMPT TOKENS", "COMPLETION TOKENS")
    print_table(columns, lines, empty="No usage yet.")
