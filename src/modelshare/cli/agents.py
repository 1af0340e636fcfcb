"""`modelshare agents …`."""

from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.formatting import when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.client import Client
from modelshare.wire.agents import Agent, AgentPatch

app = typer.Typer(add_completion=False)
AgentRef = Annotated[str, typer.Argument(metavar="AGENT", help="ID or name of the agent.")]


@app.command("list")
def list_agents(json: Json = False) -> None:
    """List the project's agents and the models each one runs."""
    with Client() as client:
        agents = list(client.agents.list())
    if json:
        print_json(agents)
        return
    rows = (
        (
            agent.name,
            agent.state,
            ", ".join(f"{item.model_name} {item.phase}" for item in agent.deployments),
            "holds files" if agent.is_holder else ", ".join(agent.capabilities.engines),
            when(agent.last_seen_at),
            agent.id,
        )
        for agent in agents
    )
    empty = "No agents yet. Create a join key for one: `modelshare join-keys create NAME`."
    print_table(("AGENT", "STATE", "MODELS", "ENGINES", "LAST SEEN (UTC)", "ID"), rows, empty=empty)


@app.command()
def remove(agent: AgentRef, yes: Yes = False, json: Json = False) -> None:
    """Remove an agent: its credential is revoked, and it deletes its weights."""
    with Client() as client:
        found = _agent(client, agent)
        confirm(f"Remove the agent {found.name}?", yes=yes)
        client.agents.remove(found.id)
    if json:
        print_json({"id": found.id, "removed": True})
    else:
        print_message(f"Removed {found.name}.")


@app.command()
def suspend(
    agent: AgentRef,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a suspended agent.")] = False,
    json: Json = False,
) -> None:
    """Suspend an agent, or resume it."""
    with Client() as client:
        found = client.agents.update(_agent(client, agent).id, AgentPatch(suspended=not resume))
    if json:
        print_json(found)
    else:
        print_message(f"Agent {found.name} is {found.state}.")


def _agent(client: Client, text: str) -> Agent:
    found = [agent for agent in client.agents.list() if text in {agent.id, agent.name}]
    if not found:
        raise CommandError(f"There is no agent `{text}`. `modelshare agents list` lists your agents.")
    if len(found) > 1:
        raise CommandError(
            f"{len(found)} agents are named `{text}`. Use the ID instead: {', '.join(a.id for a in found)}."
        )
    return found[0]
