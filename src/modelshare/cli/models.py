"""`modelshare models …`."""

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Final

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import number, size, when, yes
from modelshare.cli.output import Json, print_json, print_message, print_record, print_table
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import own_model, own_version
from modelshare.cli.usage import First, Last, Limit, check_period, chosen_columns, print_usage
from modelshare.client import Client, InvalidRequestError
from modelshare.client.models import ALL_MODEL_COLUMNS
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.models import (
    Deletion,
    ExtendedModel,
    ModelChoice,
    ModelPatch,
    StoredBytes,
    VersionDeletion,
    VersionPatch,
)
from modelshare.wire.signers import Signature

app = typer.Typer(add_completion=False)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model ID, name, or OWNER/NAME.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="For example 1.2.0.")]
_NOTES_SHOWN: Final = 60
"""Characters of a version's notes shown in a table; `--json` shows all."""
Stored = Annotated[
    StoredBytes | None,
    typer.Option("--bytes", help="Files in a storage of your own: keep them there, or delete them. Default: ask."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]


@app.command("list")
def list_models(json: Json = False) -> None:
    """List the project's models."""
    with Client() as client:
        models = list(client.models.list())
    if json:
        print_json(models)
        return
    rows = (
        (model.name, model.version or "", model.status, size(model.size_bytes), model.catalog_role or "no", model.id)
        for model in models
    )
    print_table(
        ("NAME", "VERSION", "STATUS", "SIZE", "SHARED", "ID"),
        rows,
        empty="No models yet. Add one: `modelshare push PATH`.",
    )


@app.command()
def show(model: Model, json: Json = False) -> None:
    """Show a model: facts, status with its reason, sharing."""
    with Client() as client:
        found = client.models.get(own_model(client, model).id)
    _print(found, json=json)


@app.command()
def usage(
    model: Model,
    by: Annotated[
        str, typer.Option(help=f"Columns to group by, separated by commas: {', '.join(ALL_MODEL_COLUMNS)}.")
    ] = "day,project",
    first: First = None,
    last: Last = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show how much all projects use a model: counts, never prompts."""
    columns = chosen_columns(by, ALL_MODEL_COLUMNS)
    check_period(first, last)
    with Client() as client:
        found = client.models.usage(
            own_model(client, model).id,
            group_by=columns,
            first=first and first.date(),
            last=last and last.date(),
            limit=min(limit, PAGE_LIMIT_MAX),
        )
        rows = list(islice(found, limit))
    print_usage(columns, rows, json=json)


@app.command()
def rename(model: Model, name: Annotated[str, typer.Argument(help="New name.")], json: Json = False) -> None:
    """Rename a model. Its ID and its endpoints stay the same."""
    _update(model, request(ModelPatch, name=name), json=json)


@app.command()
def edit(
    model: Model,
    display_name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    description: Annotated[str | None, typer.Option(help="Description, a few sentences.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="The complete set of tags; repeat the option for each.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence, such as apache-2.0.")] = None,  # noqa: A002 - the option
    card: Annotated[Path | None, typer.Option(help="Markdown file to use as the model card.", exists=True)] = None,
    json: Json = False,
) -> None:
    """Edit a model's card. Options that are not given stay unchanged."""
    changes = request(
        ModelPatch,
        display_name=display_name,
        description=description,
        tags=tag or None,
        license=license,
        card=card.read_text(encoding="utf-8") if card else None,
    )
    if not changes.model_fields_set:
        raise CommandError("Nothing to change. Give at least one option, such as --description.", ExitCode.USAGE)
    _update(model, changes, json=json)


@app.command()
def delete(model: Model, stored: Stored = None, yes: Yes = False, json: Json = False) -> None:
    """Delete a model with its weights. Refused while other projects' endpoints use it."""
    with Client() as client:
        found = own_model(client, model)
        confirm(f"Delete {found.name} ({size(found.size_bytes) or 'no weights yet'}) permanently?", yes=yes)
        deletion = _delete(lambda choice: client.models.delete(found.id, bytes=choice), stored, yes=yes)
    if json:
        print_json({"id": found.id, "deleted": True, **deletion.model_dump(include={"kept"})})
    else:
        print_message(f"Deleted {found.name}.")
        _print_kept(deletion)


@app.command()
def revalidate(model: Model, json: Json = False) -> None:
    """Have the server check a model's files again."""
    with Client() as client:
        found = client.models.revalidate(own_model(client, model).id)
    _print(found, json=json)


@app.command()
def versions(model: Model, json: Json = False) -> None:
    """List a model's versions."""
    with Client() as client:
        found = list(client.models.versions(own_model(client, model).id))
    if json:
        print_json(found)
        return
    rows = (
        (
            item.version,
            "latest" if item.is_latest else "",
            item.status,
            size(item.size_bytes),
            when(item.created_at),
            item.manifest_digest or item.status_reason or "",
            shorten(item.version_notes or "", _NOTES_SHOWN, placeholder=" …"),
        )
        for item in found
    )
    print_table(("VERSION", "", "STATUS", "SIZE", "CREATED (UTC)", "MANIFEST", "NOTES"), rows, empty="No versions.")
    for item in found:
        if item.latest_note and not item.is_latest:
            print_message(f"{item.version}: {item.latest_note}")


@app.command()
def promote(model: Model, version: VersionArgument, json: Json = False) -> None:
    """Make a ready version the latest. Endpoints that follow `latest` switch to it."""
    with Client() as client:
        found = client.models.promote(own_model(client, model).id, version)
    _print(found, json=json)


@app.command()
def rollback(model: Model, version: VersionArgument, json: Json = False) -> None:
    """Roll back to VERSION: it becomes the latest. Endpoints that follow `latest` switch to it."""
    with Client() as client:
        found = client.models.rollback(own_model(client, model).id, version)
    _print(found, json=json)


@app.command("edit-version")
def edit_version(
    model: Model,
    version: VersionArgument,
    notes: Annotated[str, typer.Option(help="Notes for users of this version. Empty text removes them.")],
    json: Json = False,
) -> None:
    """Edit a version's notes."""
    with Client() as client:
        changes = request(VersionPatch, version_notes=notes) if notes else VersionPatch(version_notes=None)
        found = client.models.update_version(own_model(client, model).id, version, version_notes=changes.version_notes)
    if json:
        print_json(found)
    else:
        print_message(f"Notes of {version} saved." if found.version_notes else f"Notes of {version} removed.")


@app.command()
def signature(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="Model ID or name. Default: latest version.")],
    output: Annotated[Path | None, typer.Option(help="File to write to, such as model.sig. Default: stdout.")] = None,
    json: Json = False,
) -> None:
    """Fetch a version's signature: with the files, `model_signing verify` needs nothing else."""
    with Client() as client:
        found, version = own_version(client, model)
        bundle = client.models.signature(found.id, version)
    if output is None:
        typer.echo(bundle)
    else:
        output.write_bytes(bundle)
        if json:
            print_json({"file": str(output)})
        else:
            print_message(f"Wrote {output}.")


@app.command()
def unsign(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="Model ID or name. Default: latest version.")],
    json: Json = False,
) -> None:
    """Remove a version's signature. Endpoints that run it keep running."""
    with Client() as client:
        found, version = own_version(client, model)
        client.models.unsign(found.id, version)
    if json:
        print_json({"id": found.id, "version": version, "signed": False})
    else:
        print_message(f"Removed the signature of {found.name} {version}.")


@app.command("delete-version")
def delete_version(
    model: Model,
    version: VersionArgument,
    stored: Stored = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete a version that is neither the latest nor in use, or one that failed. This frees its share of the quota."""
    with Client() as client:
        found = own_model(client, model)
        preview = client.models.preview_delete_version(found.id, version)
        if dry_run:
            if json:
                print_json(preview)
            else:
                _print_deletion(found.name, preview)
            return
        if not preview.possible:
            raise CommandError(f"{found.name} {version} cannot be deleted. {' '.join(preview.reasons)}")
        if not json:
            _print_deletion(found.name, preview)
        confirm(f"Delete {found.name} {version} permanently?", yes=yes)
        deletion = _delete(
            lambda choice: client.models.delete_version(found.id, version, bytes=choice), stored, yes=yes
        )
    if json:
        print_json({"id": found.id, "version": version, "deleted": True, **deletion.model_dump(include={"kept"})})
    else:
        print_message(f"Deleted {found.name} {version}.")
        _print_kept(deletion)


def _delete(delete: Callable[[StoredBytes | None], Deletion], stored: StoredBytes | None, *, yes: bool) -> Deletion:
    """Asks what happens to files in the project's own storage, if there are any."""
    try:
        return delete(stored)
    except InvalidRequestError as error:
        if error.param != "bytes":
            raise
    if yes or not sys.stdin.isatty():
        raise CommandError(
            "Its files are in your own storage. Add `--bytes keep` to keep them there, or `--bytes delete`.",
            ExitCode.USAGE,
        )
    answer = typer.prompt("Its files are in your own storage. Type `keep` to keep them there, or `delete`", err=True)
    if answer.strip() not in set(StoredBytes):
        raise CommandError("Nothing was changed.")
    return delete(StoredBytes(answer.strip()))


def _print_kept(deletion: Deletion) -> None:
    rows = ((file.version, file.path, size(file.size), file.url) for file in deletion.kept)
    if deletion.kept:
        print_message("These files are kept in your storage:")
        print_table(("VERSION", "FILE", "SIZE", "URL"), rows, empty="")


def _update(model: str, changes: ModelPatch, *, json: bool) -> None:
    with Client() as client:
        found = client.models.update(own_model(client, model).id, changes)
    _print(found, json=json)


def _print(model: ExtendedModel, *, json: bool) -> None:
    if json:
        print_json(model)
        return
    print_record(
        (
            ("name", model.name),
            ("display name", model.display_name),
            ("id", model.id),
            ("status", model.status),
            ("reason", model.status_reason),
            ("version", model.version),
            ("notes", model.version_notes),
            ("format", model.format),
            ("architecture", model.architecture),
            ("parameters", number(model.parameters)),
            ("context", number(model.context_length)),
            ("quantization", model.quantization),
            ("size", size(model.size_bytes)),
            ("file", model.file),
            *(("choice", _choice(choice)) for choice in model.choices),
            ("licence", model.license),
            ("tags", ", ".join(model.tags)),
            ("description", model.description),
            ("manifest", model.manifest_digest),
            ("signature", _signature(model.signature)),
            ("shared", _shared(model)),
            ("role", model.catalog_role),
            ("endpoints", str(model.deployment_count) if model.is_shared else None),
            *(("warning", warning) for warning in model.warnings),
        )
    )


def _print_deletion(name: str, preview: VersionDeletion) -> None:
    """Prints to stderr, like the question that follows."""
    if not preview.possible:
        print_message(f"{name} {preview.version} cannot be deleted. {' '.join(preview.reasons)}")
        return
    print_message(f"Deleting {name} {preview.version} frees {size(preview.frees_bytes)} of your quota.")
    for note in preview.notes:
        print_message(f"Note: {note}")


def _choice(choice: ModelChoice) -> str:
    words = (choice.quantization, choice.parameters and f"{number(choice.parameters)} parameters")
    return ", ".join([choice.file, *(word for word in words if word), size(choice.size_bytes)])


def _signature(signature: Signature) -> str:
    return f"valid, by {signature.signer}" if signature.signer else signature.state.replace("_", " ")


def _shared(model: ExtendedModel) -> str:
    if model.is_shared and not model.is_listed:
        return "yes, but not visible in the catalog until a version is ready"
    return yes(model.is_shared)
