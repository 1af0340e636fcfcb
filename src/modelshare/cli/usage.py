"""`modelshare usage …`."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.client import Client
from modelshare.client.usage import ALL_COLUMNS
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.usage import UsageCounts, UsageRow

app = typer.Typer(add_completion=False)
Column = TypeVar("Column", bound=str)
DAY: Final = "%Y-%m-%d"
First = Annotated[datetime | None, typer.Option("--from", formats=[DAY], help="First day (UTC).")]
Last = Annotated[datetime | None, typer.Option("--to", formats=[DAY], help="Last day (UTC).")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of rows to show.")]


class ExportFormat(StrEnum):
    CSV = "csv"
    JSON = "json"


@app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(help=f"Columns to group by, separated by commas: {', '.join(ALL_COLUMNS)}.")
    ] = "day,endpoint",
    first: First = None,
    last: Last = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show requests, tokens and costs by day, endpoint, model, key, tier and version."""
    if context.invoked_subcommand is not None:
        return
    columns = chosen_columns(by, ALL_COLUMNS)
    check_period(first, last)
    with Client() as client:
        found = client.usage.list(
            group_by=columns, first=first and first.date(), last=last and last.date(), limit=min(limit, PAGE_LIMIT_MAX)
        )
        rows = list(islice(found, limit))
    print_usage(columns, rows, json=json)


@app.command()
def export(
    format: Annotated[ExportFormat, typer.Option(help="Form of the file.")] = ExportFormat.CSV,  # noqa: A002 - the option
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: standard output.", dir_okay=False)
    ] = None,
    first: First = None,
    last: Last = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Write all usage by day, endpoint, key, tier and version to a file. Default: the last 30 days."""
    check_period(first, last)
    with Client() as client:
        as_json = json or format is ExportFormat.JSON
        data = client.usage.export(as_json=as_json, first=first and first.date(), last=last and last.date())
    if output is None:
        typer.echo(data.decode(), nl=False)
        return
    output.write_bytes(data)
    print_message(f"Wrote {output}.")


def chosen_columns(by: str, known: Sequence[Column]) -> list[Column]:
    """Those that `--by` names, in the order of `known`. Raises CommandError for another."""
    wanted = {part.strip() for part in by.split(",")}
    if unknown := wanted - set(known):
        raise CommandError(f"Unknown --by column {', '.join(sorted(unknown))}. Use {', '.join(known)}.", ExitCode.USAGE)
    return [name for name in known if name in wanted]


def check_period(first: datetime | None, last: datetime | None) -> None:
    """Raises CommandError if it ends before it begins."""
    if first and last and first > last:
        raise CommandError("--from is after --to. Use an earlier --from.", ExitCode.USAGE)


def print_usage(columns: Sequence[str], rows: Sequence[UsageCounts], *, json: bool) -> None:
    """The rows as a table; `~` marks what is partly an estimate."""
    if json:
        print_json(rows)
        return
    costs = ("COST",) if any(isinstance(row, UsageRow) for row in rows) else ()
    counts = ("REQUESTS", "ERRORS", "PROMPT TOKENS", "COMPLETION TOKENS")
    lines = ([*(getattr(row, name) or "" for name in columns), *_cells(row)] for row in rows)
    print_table((*(name.upper() for name in columns), *counts, *costs), lines, empty="No usage yet.")


def _cells(row: UsageCounts) -> Iterable[str]:
    yield f"{row.requests:,}"
    yield f"{row.errors:,}"
    yield f"{'~' * row.estimated}{row.prompt_tokens:,}"
    yield f"{'~' * row.estimated}{row.completion_tokens:,}"
    if isinstance(row, UsageRow):
        yield f"{'~' * (row.estimated and row.cost > 0)}{row.cost:f}"
