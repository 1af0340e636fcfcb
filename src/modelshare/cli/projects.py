"""`modelshare projects …`."""

from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.formatting import size, size_of, when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.client import Client
from modelshare.wire.keys import Project, ProjectPatch

app = typer.Typer(add_completion=False)
DEFAULT = "default"


@app.command("list")
def list_projects(json: Json = False) -> None:
    """List the platform's projects, the oldest first."""
    with Client() as client:
        projects = list(client.platform.projects())
    if json:
        print_json(projects)
        return
    rows = ((project.slug, project.name, _quota(project), when(project.created_at), project.id) for project in projects)
    print_table(("SLUG", "NAME", "QUOTA", "CREATED (UTC)", "ID"), rows, empty="No projects.")


@app.command()
def quota(
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="ID or slug of the project.")],
    may_store: Annotated[
        str,
        typer.Argument(metavar="SIZE", help=f"For example 80GB or 2TB, or `{DEFAULT}` for the platform's default."),
    ],
    json: Json = False,
) -> None:
    """Set a project's storage quota, which applies from its next push."""
    changes = ProjectPatch(quota_bytes=None if may_store == DEFAULT else size_of(may_store))
    with Client() as client:
        changed = client.platform.update_project(_project(client, project).id, changes)
    if json:
        print_json(changed)
    else:
        print_message(f"{changed.slug} may store {_quota(changed)}.")


def _project(client: Client, text: str) -> Project:
    found = next((each for each in client.platform.projects() if text in {each.id, each.slug}), None)
    if found is None:
        raise CommandError(f"There is no project `{text}`. `modelshare projects list` lists the projects.")
    return found


def _quota(project: Project) -> str:
    return "the platform's default" if project.quota_bytes is None else size(project.quota_bytes)
