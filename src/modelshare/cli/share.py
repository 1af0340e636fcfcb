"""`modelshare share`."""

from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import duration, when
from modelshare.cli.output import Json, print_json, say
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import own_model
from modelshare.client import Client
from modelshare.wire.models import CatalogRole, ExtendedModel
from modelshare.wire.sharing import Audience, ClaimLinkWithToken, LinkTerms, ShareRequest, ToLink, ToProjects

app = typer.Typer(add_completion=False)


@app.command()
def share(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id, its name, or OWNER/NAME.")],
    *,
    to: Annotated[
        list[str] | None, typer.Option(metavar="PROJECT", help="Only to this project; repeat it for more.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="To everybody.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Only to whoever claims a link, which is shown once.")] = False,
    expires_in: Annotated[
        int | None, typer.Option(parser=duration, metavar="DURATION", help="With --link: such as 2h or 30d.")
    ] = None,
    max_uses: Annotated[int | None, typer.Option(min=1, help="With --link: projects that may claim it.")] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Show a model in the catalog, to everybody or to some. The weights stay yours.

    Without --to, --link or --public it is for everybody; where only some see it now, that stays so.
    """
    spec = _spec(to, public=public, link=link, expires_in=expires_in, max_uses=max_uses)
    with Client() as client:
        found = own_model(client, model)
        for warning in found.warnings:
            say(f"Note: {warning}")
        if public and found.audience is Audience.TARGETED:
            confirm(f"{found.name} shows to certain projects only. Show it to everybody?", yes=yes)
        shared = client.models.share(found.id, spec)
        page = f"{client.config.url}/v1/catalog/models/{shared.id}"
    if json:
        print_json(shared)
    elif shared.link is not None:
        _print_link(shared, shared.link)
    else:
        say(_to_whom(shared, to or []))
        say(_who_may_deploy(shared))
        typer.echo(page)


def _spec(
    to: list[str] | None, *, public: bool, link: bool, expires_in: int | None, max_uses: int | None
) -> ShareRequest:
    if sum((bool(to), public, link)) > 1:
        raise CommandError("Say one of --to, --link and --public: they name different audiences.", ExitCode.USAGE)
    if not link and (expires_in is not None or max_uses is not None):
        raise CommandError("--expires-in and --max-uses are of a link: add --link.", ExitCode.USAGE)
    if link:
        return ShareRequest(audience=ToLink(link=request(LinkTerms, expires_in=expires_in, max_uses=max_uses)))
    if to:
        return ShareRequest(audience=request(ToProjects, projects=to))
    return ShareRequest(audience="public") if public else ShareRequest()


def _print_link(model: ExtendedModel, link: ClaimLinkWithToken) -> None:
    until = f" until {when(link.expires_at)} UTC" if link.expires_at else ""
    often = f", by {link.max_uses} project(s)" if link.max_uses else ""
    say(f"{model.name} shows to whoever claims this link{until}{often}. It is shown once:")
    typer.echo(link.token)
    say(f"They run: modelshare claim {link.token}")


def _to_whom(model: ExtendedModel, to: list[str]) -> str:
    if model.audience is Audience.TARGETED and not to:
        return f"{model.name} shows to certain projects only, as before. Add --public to show it to everybody."
    if to:
        return f"{model.name} is in the catalog for {', '.join(to)} and nobody else. The weights stay yours."
    return f"{model.name} is in the public catalog: anybody sees its card and manifest, nobody its weights."


def _who_may_deploy(model: ExtendedModel) -> str:
    if model.catalog_role is CatalogRole.SHARED:
        return "Other projects may deploy it on every tier, since an endpoint on a shared tier runs it."
    return (
        "Other projects may deploy it on `self_hosted`, on their own machines. Your own first endpoint on a shared "
        "tier opens the other tiers to them."
    )
