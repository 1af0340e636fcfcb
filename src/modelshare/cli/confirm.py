"""Confirmation before something is deleted permanently."""

import sys
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def confirm(question: str, *, yes: bool) -> None:
    """Returns when the answer is yes. Raises CommandError when it is no, or when there is no terminal to ask at."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Add --yes to confirm without a prompt.", ExitCode.USAGE)
    if not typer.confirm(question, err=True):
        raise CommandError("Nothing was changed.")
