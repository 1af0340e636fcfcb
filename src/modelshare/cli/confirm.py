"""Confirmation before something is deleted permanently."""

import sys
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def confirm(question: str, *, yes: bool) -> None:
    """Returns if the answer is yes. Raises CommandError if it is no, or if there is no terminal to ask on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Add --yes to confirm without a prompt.", ExitCode.USAGE)
    if not typer.confirm(question, err=True):
        raise CommandError("Nothing was changed.")
