"""`modelshare deploy`."""

from typing import Annotated

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.output import Json, print_json, print_message
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import any_model
from modelshare.client import Client, PermissionDeniedError
from modelshare.client.polling import poll
from modelshare.wire.agents import AgentState
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointStatus
from modelshare.wire.tiers import SELF_HOSTED

app = typer.Typer(add_completion=False)


@app.command()
def deploy(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model ID, name of your own model, or OWNER/NAME.")],
    tier: Annotated[str, typer.Option(help="A tier from `modelshare tiers`.")],
    slug: Annotated[str, typer.Option(help="Name of the endpoint in its URL, such as chat.")],
    version: Annotated[str, typer.Option(help="`latest`, or a fixed version.")] = "latest",
    file: Annotated[
        str | None, typer.Option(help="Model file to serve, one of those that `modelshare models show` lists.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until an agent serves the endpoint.")] = False,
    json: Json = False,
) -> None:
    """Create an endpoint that serves a model on a tier."""
    with Client() as client:
        endpoint = client.endpoints.create(
            request(EndpointCreate, model=any_model(client, model), tier=tier, slug=slug, version=version, file=file)
        )
        if tier == SELF_HOSTED and not _has_agent(client):
            print_message(_how_to_run_an_agent(client.config.url))
        if wait:
            endpoint = _until_active(client, endpoint)
    if json:
        print_json(endpoint)
        return
    print_message(f"Endpoint {endpoint.slug} is {endpoint.status}. Base URL for OpenAI clients:")
    typer.echo(endpoint.base_url)
    print_message(f"Next: modelshare chat {endpoint.slug}")


def _has_agent(client: Client) -> bool:
    try:
        return any(agent.state is AgentState.ACTIVE for agent in client.agents.list())
    except PermissionDeniedError:  # the key may deploy, but not list agents
        return True


def _how_to_run_an_agent(url: str) -> str:
    return (
        "No agent of your project is connected. On the machine that should run the model:\n  modelshare "
        f"join-keys create my-machine\n  MODELSHARE_JOIN_KEY=msj_... modelshare agent --url {url} --data-dir "
        "./agent"
    )


def _until_active(client: Client, endpoint: Endpoint) -> Endpoint:
    """Waits until an agent serves the endpoint, and prints its progress. Raises CommandError if it failed."""
    said = ""

    def is_active(found: Endpoint) -> bool:
        nonlocal said
        if found.status in {EndpointStatus.FAILED, EndpointStatus.INACTIVE}:
            raise CommandError(f"Endpoint {found.slug} is {found.status}: {found.status_reason or 'no reason given'}")
        if found.status is EndpointStatus.ACTIVE:
            return True
        words = found.progress.phase if found.progress else found.status_reason or found.status
        if words != said:
            print_message(f"{found.slug}: {words}")
            said = words
        return False

    if is_active(endpoint):
        return endpoint
    return poll(lambda: client.endpoints.get(endpoint.slug), is_active)
