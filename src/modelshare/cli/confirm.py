"""Asking before something is gone for good."""

import sys
from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Returns when the answer is yes. Raises CommandError when it is no, or when nobody is there to answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Add --yes to do it without being asked.", ExitCode.USAGE)
    if not typer.confirm(question, err=True):
        raise CommandError("Nothing was changed.")
