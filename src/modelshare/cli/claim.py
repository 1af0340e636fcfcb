"""`modelshare claim`."""

from typing import Annotated

import typer

from modelshare.cli.output import Json, print_json, print_message
from modelshare.client import Client

app = typer.Typer(add_completion=False)


@app.command()
def claim(
    link: Annotated[str, typer.Argument(metavar="LINK", help="Link token from `modelshare share --link`: msl_...")],
    json: Json = False,
) -> None:
    """Claim a link: its model then appears in your view of the catalog."""
    with Client() as client:
        model = client.catalog.claim(link)
    if json:
        print_json(model)
        return
    name = f"{model.owner}/{model.name}"
    print_message(f"{name} is in your catalog now. Next: modelshare deploy {name} --tier self_hosted --slug NAME")
    typer.echo(model.id)
