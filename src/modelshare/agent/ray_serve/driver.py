"""Connects to a Ray cluster for the agent: `python -m modelshare.agent.ray_serve.driver FD`, the socket to it.

A process of its own, since Ray ends the process whose cluster goes away. When the agent ends, in whatever way, the
socket closes, and the application is deleted.
"""

import asyncio
import contextlib
import re
import signal
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from time import monotonic
from typing import Any, Final

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modelshare.agent.errors import DeploymentError
from modelshare.agent.ray_serve.application import (
    application,
    application_name,
    route_prefix,
    weights_bytes,
)
from modelshare.agent.ray_serve.grant_desk import NAMESPACE, GrantDesk, desk_name
from modelshare.agent.ray_serve.messages import (
    LONGEST_LINE,
    Delete,
    Deleted,
    Deploy,
    Failed,
    FromDriver,
    Granted,
    State,
    from_agent,
    line,
)
from modelshare.agent.ray_serve.node import delete_copy
from modelshare.agent.ray_serve.reasons import busy, error_in, missing_room

_POLL_SECONDS: Final = 0.5
_NOT_PLACED: Final = "to be scheduled"
"""In Serve's message of a deployment whose replicas wait for a node."""
_VERSIONS: Final = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


class ClusterError(Exception):
    """The cluster cannot be used; one sentence."""


async def main(fd: int) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd), limit=LONGEST_LINE)
    driver = Driver(reader, writer)
    try:
        await driver.run()
    except (ClusterError, DeploymentError) as error:
        driver.send(Failed(str(error)))
    except ray.exceptions.RayError as error:
        driver.send(Failed(f"The connection to the Ray cluster was lost: {error_in(str(error))}"))
    finally:
        writer.close()
        await writer.wait_closed()


class Driver:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        """Does what the agent's first message says. Raises ClusterError."""
        plan = from_agent(await self._reader.readline())
        if isinstance(plan, Granted):
            raise TypeError(plan)
        connect(plan.settings.address)
        task = asyncio.current_task()
        assert task  # noqa: S101  this is one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # instead of Ray's own
        if isinstance(plan, Deploy):
            await self._deploy(plan)
        else:
            self.send(Deleted(await _delete_all(plan)))

    def send(self, message: FromDriver) -> None:
        self._writer.write(line(message))

    async def _deploy(self, plan: Deploy) -> None:
        name = application_name(plan.wanted.deployment_id)
        await asyncio.to_thread(serve.start)
        await asyncio.to_thread(_delete, name)  # left by an agent that was killed together with its driver
        desk = ray.remote(GrantDesk).options(name=desk_name(plan.wanted.deployment_id), num_cpus=0).remote()
        resources = plan.settings.resources(weights_bytes(plan))
        target = serve.RunTarget(
            application(plan, resources), name=name, route_prefix=route_prefix(plan.wanted.deployment_id)
        )
        try:
            await asyncio.to_thread(
                serve.run_many,
                [target],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
            await _first_to_end(self._pass_requests(desk), self._take_grants(desk), self._watch(plan, name))
        finally:
            await asyncio.to_thread(_delete, name)

    async def _pass_requests(self, desk: Any) -> None:
        while True:
            self.send(await desk.wanted.remote())

    async def _take_grants(self, desk: Any) -> None:
        """Ends when the agent has."""
        while received := await self._reader.readline():
            granted = from_agent(received)
            if isinstance(granted, Granted):
                await desk.answer.remote(granted)

    async def _watch(self, plan: Deploy, name: str) -> None:
        resources = plan.settings.resources(weights_bytes(plan))
        told, placed = State(-1), monotonic()
        while True:
            status = (await asyncio.to_thread(serve.status)).applications.get(name)
            if status is None:
                raise ClusterError("The application was deleted from the Ray cluster.")
            details = [status.message, *(one.message for one in status.deployments.values())]
            if status.status == ApplicationStatus.DEPLOY_FAILED:
                raise ClusterError(error_in("\n".join(details)))
            counts = [one.replica_states for one in status.deployments.values()]
            serving = min((states.get("RUNNING", 0) for states in counts), default=0)
            detail = next(filter(None, map(str.strip, details)), "").partition("\n")[0]
            if (state := State(serving, detail)) != told:
                self.send(state)
                told = state
            problem = await asyncio.to_thread(_placement_problem, resources, "\n".join(details))
            if serving or problem is None:
                placed = monotonic()
            elif monotonic() - placed > plan.settings.placement_seconds:
                raise ClusterError(problem)
            await asyncio.sleep(_POLL_SECONDS)


def connect(address: str) -> None:
    """Raises ClusterError."""
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        where = "No Ray cluster runs on this machine" if address == "auto" else f"No Ray cluster answers at {address}"
        raise ClusterError(f"{where}. Start one with `ray start --head`, or correct `address`.") from error
    except RuntimeError as error:
        raise ClusterError(_of_versions(str(error)) or f"The Ray cluster cannot be used: {error}") from error


def _of_versions(message: str) -> str | None:
    if len(found := _VERSIONS.findall(message)) < 2:  # noqa: PLR2004 - the cluster's and ours
        return None
    (ray_there, python_there), (ray_here, python_here) = found[:2]
    return (
        f"The Ray cluster runs Ray {ray_there} with Python {python_there}, and the agent Ray {ray_here} with Python "
        f"{python_here}. Install the same versions."
    )


def _placement_problem(resources: Any, details: str) -> str | None:
    if problem := missing_room(ray.nodes(), resources):
        return problem
    return busy(ray.available_resources(), resources) if _NOT_PLACED in details else None


def _delete(name: str) -> None:
    if name in serve.status().applications:
        serve.delete(name)


async def _delete_all(plan: Delete) -> list[str]:
    """The ids of all folders for weights that the cluster's nodes have."""
    await asyncio.to_thread(_delete, application_name(plan.deployment_id))
    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]
    deleting = ray.remote(delete_copy)
    tasks = [
        deleting.options(num_cpus=0, max_retries=0, scheduling_strategy=node).remote(
            plan.settings.cache, plan.deployment_id
        )
        for node in nodes
    ]
    try:
        return list(await asyncio.gather(*tasks))
    except ray.exceptions.RayError as error:
        raise ClusterError(f"A node of the Ray cluster cannot delete the weights: {error_in(str(error))}") from error


async def _first_to_end(*jobs: Coroutine[Any, Any, None]) -> None:
    """Runs all until one ends or fails, and cancels the others."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1])))
