"""`modelshare unshare`."""

from typing import Annotated

import typer

from modelshare.cli.output import Json, print_json, print_message, print_text
from modelshare.cli.resolve_model import own_model
from modelshare.client import Client
from modelshare.wire.models import UnsharePreview

app = typer.Typer(add_completion=False)


@app.command()
def unshare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model ID, name, or OWNER/NAME.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    json: Json = False,
) -> None:
    """Remove a model from the catalog. Existing endpoints keep serving."""
    with Client() as client:
        found = own_model(client, model)
        if dry_run:
            preview = client.models.preview_unshare(found.id)
            if json:
                print_json(preview)
            else:
                _print_preview(found.name, preview)
            return
        unshared = client.models.unshare(found.id)
    if json:
        print_json(unshared)
    else:
        print_message(
            f"{unshared.name} is no longer in the catalog. Existing endpoints keep serving, but other projects "
            "can create no new ones, and theirs do not get the versions that you push from now on."
        )


def _print_preview(name: str, preview: UnsharePreview) -> None:
    print_text(
        f"Unsharing {name} keeps {preview.keeps_serving} active endpoint(s) serving, "
        f"{preview.keeps_serving_other_projects} of which belong to other projects."
    )
    for line in preview.stops_being_possible:
        print_text(f"No longer possible: {line}")
    if preview.removed:
        print_text(f"Removed: {', '.join(preview.removed)}")
    for note in preview.notes:
        print_text(f"Note: {note}")
    print_message("Nothing was changed.")
