"""`modelshare share`."""

from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import duration, when
from modelshare.cli.output import Json, print_json, print_message
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import own_model
from modelshare.client import Client
from modelshare.wire.models import CatalogRole, ExtendedModel
from modelshare.wire.sharing import Audience, ClaimLinkWithToken, LinkTerms, ShareRequest, ToLink, ToProjects

app = typer.Typer(add_completion=False)


@app.command()
def share(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model ID, name, or OWNER/NAME.")],
    *,
    to: Annotated[
        list[str] | None, typer.Option(metavar="PROJECT", help="Share only with this project; repeat for more.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Share with everyone.")] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Share only with projects that claim a link, which is shown once.")
    ] = False,
    expires_in: Annotated[
        int | None,
        typer.Option(parser=duration, metavar="DURATION", help="With --link: lifetime of the link, such as 2h or 30d."),
    ] = None,
    max_uses: Annotated[
        int | None, typer.Option(min=1, help="With --link: number of projects that may claim it.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Share a model in the catalog, with everyone or with certain projects. The weights stay yours.

    Without --to, --link or --public, the audience of a shared model stays the same; any other model is shared with
    everyone.
    """
    spec = _spec(to, public=public, link=link, expires_in=expires_in, max_uses=max_uses)
    with Client() as client:
        found = own_model(client, model)
        for warning in found.warnings:
            print_message(f"Note: {warning}")
        if public and found.audience is Audience.TARGETED:
            confirm(f"{found.name} is shared with certain projects only. Share it with everyone?", yes=yes)
        shared = client.models.share(found.id, spec)
        page = f"{client.config.url}/v1/catalog/models/{shared.id}"
    if json:
        print_json(shared)
    elif shared.link is not None:
        _print_link(shared, shared.link)
    else:
        print_message(_to_whom(shared, to or []))
        print_message(_who_may_deploy(shared))
        typer.echo(page)


def _spec(
    to: list[str] | None, *, public: bool, link: bool, expires_in: int | None, max_uses: int | None
) -> ShareRequest:
    if sum((bool(to), public, link)) > 1:
        raise CommandError("Use only one of --to, --link and --public: they are different audiences.", ExitCode.USAGE)
    if not link and (expires_in is not None or max_uses is not None):
        raise CommandError("--expires-in and --max-uses apply to a link only. Add --link.", ExitCode.USAGE)
    if link:
        return ShareRequest(audience=ToLink(link=request(LinkTerms, expires_in=expires_in, max_uses=max_uses)))
    if to:
        return ShareRequest(audience=request(ToProjects, projects=to))
    return ShareRequest(audience="public") if public else ShareRequest()


def _print_link(model: ExtendedModel, link: ClaimLinkWithToken) -> None:
    until = f" until {when(link.expires_at)} UTC" if link.expires_at else ""
    often = f", for at most {link.max_uses} project(s)" if link.max_uses else ""
    print_message(
        f"{model.name} is shared with projects that claim this link{until}{often}. The link is shown only once:"
    )
    typer.echo(link.token)
    print_message(f"To claim it: modelshare claim {link.token}")


def _to_whom(model: ExtendedModel, to: list[str]) -> str:
    if model.audience is Audience.TARGETED and not to:
        return f"{model.name} is still shared with certain projects only. Add --public to share it with everyone."
    if to:
        return f"{model.name} is shared with {', '.join(to)} only. The weights stay yours."
    return f"{model.name} is in the public catalog: anyone can see its card and manifest; the weights stay private."


def _who_may_deploy(model: ExtendedModel) -> str:
    if model.catalog_role is CatalogRole.SHARED:
        return "Other projects may deploy it on every tier, because an endpoint on a shared tier runs it."
    return (
        "Other projects may deploy it on `self_hosted`, on their own machines. If the platform promotes "
        "models (its setting `catalog_promotion`), your own first endpoint on a shared tier opens the others to them."
    )
