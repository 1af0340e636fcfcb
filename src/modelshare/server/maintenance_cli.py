"""`modelshare backup`, `restore` and `doctor`: commands on the server's machine."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from modelshare import private_files
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size, when
from modelshare.cli.output import Json, print_json, print_message, print_text
from modelshare.cli.progress import TransferProgress
from modelshare.server.admin_cli import DatabaseUrl, DataDir, load_settings, settings_errors
from modelshare.server.backup import making, remote, restoring
from modelshare.server.backup.layout import SETTINGS, BackupError
from modelshare.server.backup.remote import SCHEME
from modelshare.server.doctor.checks import Finding, Level, examine
from modelshare.server.storage_errors import StorageError

backup = typer.Typer(add_completion=False)
restore = typer.Typer(add_completion=False)
doctor = typer.Typer(add_completion=False)
Result = TypeVar("Result")


@backup.command("backup")
def _backup(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DIR|S3_URL",
            help="A new or empty folder outside the data folder, or s3://BUCKET/PREFIX?endpoint=URL, with keys from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY as for the setting `storage_url`.",
        ),
    ],
    without_weights: Annotated[
        bool, typer.Option("--without-weights", help="Leave out the weights: only the database, keys and settings.")
    ] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Back up the platform: database, weights, keys and settings. The server may keep running.

    A backup that was interrupted continues when the same command is run again. Weights in a bucket stay there.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with TransferProgress("Copying weights") as progress:
        if target.startswith(SCHEME):
            making_it = remote.make(settings, target, with_weights=not without_weights, progress=progress)
        else:
            making_it = making.make(settings, Path(target), with_weights=not without_weights, progress=progress)
        made = _run(making_it)
    if json:
        print_json(
            {"backup": target, "weights": made.weights, "files": made.files, "bytes": made.bytes,
             "damaged": made.damaged}
        )  # fmt: skip
    else:
        weights = {
            "copied": f"{made.files} file(s) of weights ({size(made.bytes)}).",
            "left_out": "no weights: they were left out.",
            "in_bucket": "no weights: they stay in the bucket, which needs a backup of its own.",
        }
        print_message(f"Backed up to {target}: the database, the keys, and {weights[made.weights]}")
        print_message("The backup contains the platform's secrets: anyone who has it can act as the platform.")
        if made.linked and not target.startswith(SCHEME):
            print_message("The weights are hard links, on the same disk: copy the folder to another machine.")
    if made.damaged:
        raise CommandError(
            f"{len(made.damaged)} file(s) of weights are missing or damaged on the server, and not in the backup. "
            "`modelshare doctor --all` names their models."
        )


@restore.command("restore")
def _restore(
    source: Annotated[str, typer.Argument(metavar="DIR|S3_URL", help="The backup: a folder, or where it is in S3.")],
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Restore a backup into an empty data folder.

    With PostgreSQL, its database must be empty too. Everything is verified while it is copied. A restore that was
    interrupted is completed by the same command.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url)
    with TransferProgress("Restoring weights") as progress:
        if source.startswith(SCHEME):
            restored = _run(remote.restore(settings, source, progress=progress))
        else:
            restored = _run(restoring.restore(settings, Path(source), progress=progress))
    manifest = restored.manifest
    if json:
        print_json({**manifest.model_dump(exclude={"parts"}), "files": restored.files, "damaged": restored.damaged})
    else:
        print_message(f"Restored the platform of {when(manifest.made_at)} UTC into {settings.data_dir}.")
        print_message(f"Its {SETTINGS} has the settings of that time. Start the server: `modelshare serve`.")
    if restored.damaged:
        raise CommandError(
            f"{len(restored.damaged)} file(s) of weights are missing or damaged in the backup. Everything else is "
            "restored; `modelshare doctor` names the models whose owners have to push them again."
        )


@doctor.command("doctor")
def _doctor(
    every_file: Annotated[bool, typer.Option("--all", help="Read all weights, not a sample of 20 files.")] = False,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Examine the platform, and say what to do.

    Settings, data folder, disk, storage, database, secret, clocks, catalog, jobs, weights. The server may run or be
    stopped. Exit code 1 if there is an error; warnings alone are 0.
    """
    found = _run(_examine(data_dir, database_url, every_file=every_file, quiet=json))
    if json:
        print_json({"findings": [asdict(each) for each in found]})
    if errors := sum(each.level is Level.ERROR for each in found):
        raise CommandError(f"{errors} problem(s) found.")


async def _examine(data_dir: Path | None, database_url: str | None, *, every_file: bool, quiet: bool) -> list[Finding]:
    found = []
    try:
        settings = load_settings(data_dir=data_dir, database_url=database_url)
        examined = examine(settings, every_file=every_file)
    except CommandError as problem:
        examined = _only(Finding("settings", Level.ERROR, str(problem), "Correct the setting."))
    async for each in examined:
        found.append(each)
        if not quiet:
            print_text(f"{each.level:<7}  {each.check:<9}  {each.message}")
            if each.remedy is not None:
                print_text(f"{'':20}{each.remedy}")
    return found


async def _only(finding: Finding) -> AsyncIterator[Finding]:
    yield finding


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    os.umask(private_files.UMASK)
    try:
        with settings_errors():
            return asyncio.run(work)
    except (BackupError, StorageError) as error:
        raise CommandError(str(error), ExitCode.FAILED) from error
