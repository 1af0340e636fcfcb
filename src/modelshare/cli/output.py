"""Output of the commands: results on stdout, messages and progress on stderr; with `--json` only JSON on stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelshare.wire.text import visible

Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]

Printable = BaseModel | Sequence[BaseModel] | dict[str, object]


def print_json(value: Printable) -> None:
    typer.echo(visible(json.dumps(to_jsonable_python(value), indent=2, ensure_ascii=False), keep="\n"))


def tell(text: str) -> None:
    """Prints a result as text."""
    typer.echo(visible(text, keep="\n"))


def say(text: str) -> None:
    """Prints a message to stderr, so that a pipe gets only results."""
    typer.echo(visible(text, keep="\n"), err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Prints a table, or aligned columns if stdout is not a terminal. Prints `empty` if there are no rows."""
    lines = [[one_line(cell) for cell in row] for row in rows]
    if not lines:
        say(empty)
    elif sys.stdout.isatty():
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, no_wrap=index == 0 or column == "ID", overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        Console().print(table)
    else:
        _print_aligned([list(columns), *lines])


def print_record(pairs: Iterable[tuple[str, str | None]]) -> None:
    """Prints names and values, one per line, without empty values."""
    shown = [(name, value) for name, value in pairs if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        typer.echo(f"{name:<{width}}  {one_line(value or '')}")


def _print_aligned(lines: list[list[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def one_line(text: str) -> str:
    """The text on one line with control characters escaped, so that untrusted text cannot control the terminal."""
    return visible(" ".join(text.splitlines()))
