"""`modelshare catalog`."""

from typing import Annotated, get_args

import typer

from modelshare.cli.formatting import number, size
from modelshare.cli.output import Json, print_json, print_table, say
from modelshare.client import CatalogFilter, Client
from modelshare.client.catalog import Sort
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.models import CatalogRole

app = typer.Typer(add_completion=False)


@app.command()
def catalog(  # noqa: PLR0917 - Typer passes options by name
    search: Annotated[str | None, typer.Argument(help="Search terms.")] = None,
    family: Annotated[str | None, typer.Option(help="For example llama.")] = None,
    tag: Annotated[str | None, typer.Option()] = None,
    license: Annotated[str | None, typer.Option(help="For example apache-2.0.")] = None,  # noqa: A002 - the option
    format: Annotated[str | None, typer.Option(help="gguf or safetensors.")] = None,  # noqa: A002 - the option
    role: Annotated[
        CatalogRole | None, typer.Option(help="deployable (on self_hosted only) or shared (on every tier).")
    ] = None,
    sort: Annotated[Sort | None, typer.Option(help=f"Sort order: one of {', '.join(get_args(Sort))}.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of models to list.")] = 50,
    json: Json = False,
) -> None:
    """Search the public catalog. No key needed."""
    where = CatalogFilter(q=search, family=family, tag=tag, license=license, format=format, role=role, sort=sort)
    with Client() as client:
        page = client.catalog.page(where, limit=min(limit, PAGE_LIMIT_MAX))
        models, first = page.data[:limit], page
        while len(models) < limit and page.next_cursor:
            page = client.catalog.page(where, limit=min(limit, PAGE_LIMIT_MAX), after=page.next_cursor)
            models = [*models, *page.data][:limit]
    if json:
        print_json(models)
        return
    rows = (
        (
            f"{model.owner}/{model.name}",
            model.version,
            number(model.parameters),
            model.format or "",
            size(model.size_bytes),
            model.license or "",
            model.catalog_role,
            str(model.deployment_count),
            model.id,
        )
        for model in models
    )
    columns = ("MODEL", "VERSION", "PARAMETERS", "FORMAT", "SIZE", "LICENCE", "ROLE", "ENDPOINTS", "ID")
    if first.corrected:
        say(f"No results for `{search}`. Showing results for `{first.corrected}` instead.")
    print_table(columns, rows, empty="No models match." if search else "The catalog is empty.")
    if models:
        say(
            f"{len(models):,} of {first.total:,} models."
            if first.total_is_exact
            else (f"{len(models):,} of {first.total:,}+ models.")
        )
