"""`modelshare usage`."""

from datetime import datetime
from itertools import islice
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.limits import budget, limits
from modelshare.cli.output import Json, print_json, print_table
from modelshare.client import Client
from modelshare.client.usage import ALL_COLUMNS
from modelshare.wire.base import PAGE_LIMIT_MAX

app = typer.Typer(add_completion=False)
app.command()(limits)
app.command()(budget)
DAY = "%Y-%m-%d"


@app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(help=f"Columns to group by, separated by commas: {', '.join(ALL_COLUMNS)}.")
    ] = "day,endpoint",
    first: Annotated[datetime | None, typer.Option("--from", formats=[DAY], help="First day (UTC).")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=[DAY], help="Last day (UTC).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows to show.")] = 100,
    json: Json = False,
) -> None:
    """Show requests and tokens by day, endpoint, model and key."""
    if context.invoked_subcommand is not None:
        return
    wanted = {part.strip() for part in by.split(",")}
    if unknown := wanted - set(ALL_COLUMNS):
        raise CommandError(
            f"Unknown --by column {', '.join(sorted(unknown))}. Use {', '.join(ALL_COLUMNS)}.", ExitCode.USAGE
        )
    if first and last and first > last:
        raise CommandError("--from is after --to. Use an earlier --from.", ExitCode.USAGE)
    columns = [name for name in ALL_COLUMNS if name in wanted]
    with Client() as client:
        found = client.usage.list(
            group_by=columns, first=first and first.date(), last=last and last.date(), limit=min(limit, PAGE_LIMIT_MAX)
        )
        rows = list(islice(found, limit))
    if json:
        print_json(rows)
        return
    lines = (
        (
            *(getattr(row, name) or "" for name in columns),
            f"{row.requests:,}",
            f"{row.errors:,}",
            f"{'~' * row.estimated}{row.prompt_tokens:,}",
            f"{'~' * row.estimated}{row.completion_tokens:,}",
        )
        for row in rows
    )
    counts = ("REQUESTS", "ERRORS", "PROMPT TOKENS", "COMPLETION TOKENS")
    print_table((*(name.upper() for name in columns), *counts), lines, empty="No usage yet.")
