"""Options of a bucket. Its keys come from the environment, a file, or a prompt, never from an argument."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode

KEY_ID: Final = "MODELSHARE_STORAGE_ACCESS_KEY_ID"
SECRET: Final = "MODELSHARE_STORAGE_SECRET_ACCESS_KEY"  # noqa: S105 - a variable's name

RegionOption: TypeAlias = Annotated[str | None, typer.Option(help="Region, such as eu-central-1, or auto for R2.")]
AddressingOption: TypeAlias = Annotated[
    str | None, typer.Option(help="path or virtual. Default: path with --endpoint, virtual on AWS.")
]
SecretFileOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(dir_okay=False, help=f"File that holds the secret access key. Default: {SECRET}, else you are asked."),
]
RoleOption: TypeAlias = Annotated[
    str | None,
    typer.Option(help="AWS role that the platform assumes, instead of keys; `storage show` has the external ID."),
]
RelayedOption: TypeAlias = Annotated[
    bool, typer.Option("--relayed", help="Never use signed URLs: all bytes pass through the platform.")
]


def secret_of(file: Path | None) -> str:
    return read_secret(file) if file else os.environ.get(SECRET) or ask("Secret access key", SECRET, hide=True)


def ask(what: str, variable: str, *, hide: bool = False) -> str:
    """Typed at a prompt, the secret without echo, or the next line of a pipe. `variable` could be set instead."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(what, hide_input=hide, err=True)
        return answer
    if line := sys.stdin.readline().strip():
        return line
    raise CommandError(f"No {what.lower()} given. Pipe it in, or set {variable}.", ExitCode.USAGE)


def read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} cannot be read. Check its name and its permissions.", ExitCode.USAGE) from error
