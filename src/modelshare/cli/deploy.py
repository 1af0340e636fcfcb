"""`modelshare deploy`."""

from typing import Annotated

import typer

from modelshare.cli.output import Json, print_json, say
from modelshare.cli.requests import endpoint_request
from modelshare.cli.which import any_model
from modelshare.client import Client, PermissionDeniedError
from modelshare.wire.agents import AgentState
from modelshare.wire.endpoints import Endpoint
from modelshare.wire.tiers import SELF_HOSTED

app = typer.Typer()


@app.command()
def deploy(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's id, your own model's name, or OWNER/NAME.")],
    tier: Annotated[str, typer.Option(help="A tier of `modelshare tiers`.")],
    slug: Annotated[str, typer.Option(help="The endpoint's name in its URL, such as chat.")],
    version: Annotated[str, typer.Option(help="`latest`, or a fixed version.")] = "latest",
    json: Json = False,
) -> None:
    """Make an endpoint that serves a model on a tier."""
    with Client() as client:
        endpoint = client.endpoints.create(endpoint_request(any_model(client, model), tier, slug, version))
        needs_agent = tier == SELF_HOSTED and not json and not _has_agent(client)
        url = client.config.url
    if json:
        print_json(endpoint)
        return
    say(f"Endpoint {endpoint.slug} is {endpoint.status}. Give its base URL to the OpenAI client:")
    typer.echo(endpoint.base_url)
    say(_next_step(endpoint, url, needs_agent=needs_agent))


def _has_agent(client: Client) -> bool:
    try:
        return any(agent.state is AgentState.ACTIVE for agent in client.agents.list())
    except PermissionDeniedError:  # the key may deploy and not see agents
        return False


def _next_step(endpoint: Endpoint, url: str, *, needs_agent: bool) -> str:
    if not needs_agent:
        return f"Next: modelshare chat {endpoint.slug}"
    return (
        "No agent of your project is connected. On the machine that should run the model:\n"
        "  modelshare join-keys create my-machine\n"
        f"  modelshare agent --url {url} --join-key msj_... --data-dir ./agent"
    )
