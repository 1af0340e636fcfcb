"""Passes grants from the agent to the nodes that ask for one, so that only the agent has its credential."""

import asyncio
import itertools
from typing import Final

from modelshare.agent.errors import PullError
from modelshare.agent.ray_serve.messages import Copy, Granted, GrantWanted
from modelshare.wire.agents import Grant

NAMESPACE: Final = "modelshare"


def desk_name(deployment_id: str) -> str:
    return f"grants-{deployment_id}"


class GrantDesk:
    """A Ray actor, which ends with the agent's connection to the cluster."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._wanted: asyncio.Queue[GrantWanted] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Granted]] = {}

    async def wanted(self) -> GrantWanted:
        """For the agent's side: waits for the next node that asks."""
        return await self._wanted.get()

    async def answer(self, granted: Granted) -> None:
        """For the agent's side."""
        if not (asked := self._answers.pop(granted.number)).done():
            asked.set_result(granted)

    async def grant(self, copy: Copy) -> Granted:
        """For the nodes."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._wanted.put_nowait(GrantWanted(number, copy))
        return await self._answers[number]


async def ask_for_grant(deployment_id: str, copy: Copy) -> Grant:
    """On a node. Raises PullError."""
    import ray  # noqa: PLC0415 - optional

    try:
        desk = ray.get_actor(desk_name(deployment_id), namespace=NAMESPACE)
        granted: Granted = await desk.grant.remote(copy)
    except (ValueError, ray.exceptions.RayActorError) as error:
        raise PullError("The agent that serves this model is not connected to the Ray cluster.") from error
    if not granted.grant:
        raise PullError(granted.reason)
    return Grant.model_validate_json(granted.grant)
