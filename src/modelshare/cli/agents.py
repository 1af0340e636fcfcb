"""`modelshare agents …`."""

from collections.abc import Callable
from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.formatting import when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.client import Client
from modelshare.client.agents import Agents
from modelshare.client.call import SyncTransport
from modelshare.wire.agents import Agent, AgentPatch

AgentRef = Annotated[str, typer.Argument(metavar="AGENT", help="ID or name of the agent.")]


def commands(agents_of: Callable[[Client], Agents[SyncTransport]], group: str, join_keys: str) -> typer.Typer:
    """The commands for a project's agents, or for the platform's. `group`, `join_keys`: names of commands."""
    app = typer.Typer(add_completion=False)

    @app.command("list")
    def list_agents(json: Json = False) -> None:
        """List agents and the models each one runs."""
        with Client() as client:
            agents = list(agents_of(client).list())
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
        empty = f"No agents yet. Create a join key for one: `modelshare {join_keys} create NAME`."
        print_table(("AGENT", "STATE", "MODELS", "ENGINES", "LAST SEEN (UTC)", "ID"), rows, empty=empty)

    @app.command()
    def remove(agent: AgentRef, yes: Yes = False, json: Json = False) -> None:
        """Remove an agent: its credential is revoked, and it deletes its weights."""
        with Client() as client:
            found = _agent(agents_of(client), agent, group)
            confirm(f"Remove the agent {found.name}?", yes=yes)
            agents_of(client).remove(found.id)
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
            found = agents_of(client).update(
                _agent(agents_of(client), agent, group).id, AgentPatch(suspended=not resume)
            )
        if json:
            print_json(found)
        else:
            print_message(f"Agent {found.name} is {found.state}.")

    return app


def _agent(agents: Agents[SyncTransport], text: str, group: str) -> Agent:
    found = [agent for agent in agents.list() if text in {agent.id, agent.name}]
    if not found:
        raise CommandError(f"There is no agent `{text}`. `modelshare {group} list` lists them.")
    if len(found) > 1:
        raise CommandError(
            f"{len(found)} agents are named `{text}`. Use the ID instead: {', '.join(a.id for a in found)}."
        )
    return found[0]


app = commands(lambda client: client.agents, "agents", "join-keys")
