"""`modelshare share`."""

from typing import Annotated

import typer

from modelshare.cli.output import Json, print_json, say
from modelshare.cli.which import own_model
from modelshare.client import Client
from modelshare.wire.models import CatalogRole, ExtendedModel

app = typer.Typer(add_completion=False)


@app.command()
def share(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id or name.")], json: Json = False
) -> None:
    """Show a model in the public catalog. The weights stay yours."""
    with Client() as client:
        shared = client.models.share(own_model(client, model).id)
        page = f"{client.config.url}/v1/catalog/models/{shared.id}"
    if json:
        print_json(shared)
        return
    say(f"{shared.name} is in the public catalog: anybody sees its card and manifest, nobody its weights.")
    say(_who_may_deploy(shared))
    typer.echo(page)


def _who_may_deploy(model: ExtendedModel) -> str:
    if model.catalog_role is CatalogRole.SHARED:
        return "Other projects may deploy it on every tier, since an endpoint on a shared tier runs it."
    return (
        "Other projects may deploy it on `self_hosted`, on their own machines. Your own first endpoint on a shared "
        "tier opens the other tiers to them."
    )
