"""`--engine ray`. Does not import Ray, which only the program beside the agent and the nodes do."""

import importlib.util
from collections.abc import Awaitable, Callable

from modelshare.agent.engines.base import Engine, EngineError, Format, Task
from modelshare.agent.engines.plugin import ClusterType
from modelshare.agent.ray_serve.connection import DriverConnection
from modelshare.agent.ray_serve.copies import Copies, Made
from modelshare.agent.ray_serve.engine import RayEngine
from modelshare.agent.ray_serve.messages import Delete, Deleted, Failed
from modelshare.wire.agents import Grant
from modelshare.wire.link import DesiredDeployment


class RayServe(ClusterType):
    rank = 60
    only_on_request = True

    def missing(self) -> str | None:
        if importlib.util.find_spec("ray") and importlib.util.find_spec("uvicorn"):
            return None
        return "Ray is not installed; install ray[serve], in the version of the cluster."

    def cluster_engine(
        self, wanted: DesiredDeployment, grants: Callable[[], Awaitable[Grant]], parallel: int | None
    ) -> Engine:
        if wanted.task == Task.EMBEDDING and wanted.format != Format.GGUF:
            raise EngineError("On a Ray cluster, embedding models are served from GGUF only.")
        return RayEngine(wanted, self.machine.ray, grants, self.machine.state_dir, parallel=parallel)

    async def release(self, deployment_id: str) -> None:
        copies = Copies(self.machine.state_dir, deployment_id)
        for made in copies.read():
            await self._delete(deployment_id, made, copies)

    async def _delete(self, deployment_id: str, made: Made, copies: Copies) -> None:
        driver = await DriverConnection.start(Delete(deployment_id, made.settings), self.machine.state_dir)
        try:
            last = [message async for message in driver.messages()][-1:]
            log = driver.log
        finally:
            await driver.stop()
        match last:
            case [Deleted() as deleted]:
                if lost := made.lost(deleted.copies):
                    raise EngineError(
                        f"{', '.join(lost)} left the Ray cluster with weights that have to be deleted. Start it "
                        f"again; or delete the folder {deployment_id} there, and then {copies.file} here."
                    )
                copies.remove(made)
            case [Failed() as failed]:
                raise EngineError(failed.reason)
            case _:
                raise EngineError(next(reversed(log), "The connection to the Ray cluster was lost."))
