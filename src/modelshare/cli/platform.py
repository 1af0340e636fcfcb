"""`modelshare platform …`: what the platform's operator does, with a platform key."""

from typing import Annotated

import typer

from modelshare.cli import agents, join_keys, projects
from modelshare.cli.formatting import size_of
from modelshare.cli.join_keys import ExpiresIn, Name, print_created
from modelshare.cli.output import Json, print_json, print_message
from modelshare.cli.requests import request
from modelshare.client import Client
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.keys import ProjectCreate

app = typer.Typer(add_completion=False)
_keys = join_keys.commands(lambda client: client.platform.join_keys)
_agents = agents.commands(lambda client: client.platform.agents, "platform agents", "platform join-keys")
_projects = typer.Typer(add_completion=False)
_projects.command("list")(projects.list_projects)
_projects.command()(projects.quota)
app.add_typer(_keys, name="join-keys", help="Create, list and revoke join keys for shared agents.")
app.add_typer(_agents, name="agents", help="List, suspend and remove shared agents.")
app.add_typer(_projects, name="projects", help="Create and list projects, and set their storage quotas.")


@_keys.command("create")
def create_join_key(
    name: Name,
    tier: Annotated[list[str], typer.Option(help="Shared tier that its agents serve; repeat for more.")],
    expires_in: ExpiresIn = None,
    json: Json = False,
) -> None:
    """Create a join key for shared agents. The key is shown only once."""
    with Client() as client:
        spec = request(JoinKeyCreate, name=name, tiers=tier, expires_in=expires_in)
        created = client.platform.join_keys.create(spec)
        url = client.config.url
    print_created(created, url, json=json)


@_projects.command("create")
def create_project(
    slug: Annotated[str, typer.Argument(help="Short name, used in URLs and as the owner of its models.")],
    name: Annotated[str | None, typer.Option(help="Name that people see. Default: the short name.")] = None,
    quota: Annotated[str | None, typer.Option(metavar="SIZE", help="Storage quota, for example 80GB.")] = None,
    json: Json = False,
) -> None:
    """Create a project. Its first API key is shown only once."""
    spec = request(ProjectCreate, slug=slug, name=name or slug, quota_bytes=size_of(quota) if quota else None)
    with Client() as client:
        created = client.platform.create_project(spec)
    if json:
        print_json(created)
        return
    print_message(f"Project {created.slug} created. Its first key has full access, and is shown only once:")
    typer.echo(created.api_key)


@app.command()
def feature(
    model: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A public model, or its ID.")],
    off: Annotated[bool, typer.Option("--off", help="Stop featuring it.")] = False,
    json: Json = False,
) -> None:
    """Feature a model at the top of the catalog."""
    with Client() as client:
        found = client.catalog.get(model)
        changed = client.platform.feature(found.id, featured=not off)
    if json:
        print_json(changed)
    else:
        print_message(f"{found.owner}/{found.name} is {'featured' if changed.featured else 'no longer featured'}.")
