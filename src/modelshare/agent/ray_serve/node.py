"""One replica's copy of the weights and its engine, on the replica's node.

Each deployment has a folder of its own, shared by the node's replicas. They start one after the other, so that the
weights are pulled once, and each verifies the files before it serves.

    id                     identifies this node's folder
    <deployment id>/       see `agent.cache`
    <deployment id>.lock
"""

import asyncio
import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from modelshare import private_files
from modelshare.agent.cache import Cache, CachedFiles
from modelshare.agent.deployment import RETRY_CAP, Deployment, DeploymentContext, Serving
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.engines.base import EngineError
from modelshare.agent.hardware import memory_bytes
from modelshare.agent.layout import lay_out
from modelshare.agent.pull import Puller
from modelshare.agent.ram_budget import RamBudget
from modelshare.agent.ray_serve.grant_desk import ask_for_grant
from modelshare.agent.ray_serve.messages import Copy, Deploy
from modelshare.agent.ray_serve.settings import Resources
from modelshare.transfer.tasks import in_thread
from modelshare.wire.agents import Phase
from modelshare.wire.link import Report

CACHE_VARIABLE: Final = "MODELSHARE_RAY_CACHE"
"""Names another folder, on nodes whose disk is mounted elsewhere."""


def cache_folder(cache: str) -> Path:
    """This node's folder, according to the settings and its environment."""
    folder = Path(os.environ.get(CACHE_VARIABLE) or cache).expanduser()
    private_files.folder(folder)
    return folder


def copy_in(folder: Path) -> Copy:
    return Copy(private_files.create(folder / "id", secrets.token_hex(8).encode()).decode(), socket.gethostname())


@contextmanager
def _locked(folder: Path, deployment_id: str) -> Iterator[None]:
    file = os.open(folder / f"{deployment_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@asynccontextmanager
async def alone(folder: Path, deployment_id: str) -> AsyncIterator[None]:
    """Waits for this node's other replicas of the deployment. A process that dies lets the next one in."""
    lock = _locked(folder, deployment_id)
    await in_thread(None, lock.__enter__)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def delete_copy(cache: str, deployment_id: str) -> str:
    """Deletes this node's weights of the deployment, whose application has ended; returns the id of its folder."""
    folder = cache_folder(cache)
    with _locked(folder, deployment_id):
        if (weights := folder / deployment_id).exists():
            shutil.rmtree(weights)
            private_files.sync_folder(folder)
    return copy_in(folder).id


async def pull_model(plan: Deploy) -> Path:
    """Pulls and verifies the model for an engine that somebody else starts on this node; returns its folder.

    Raises DeploymentError.
    """
    wanted, folder = plan.wanted, cache_folder(plan.settings.cache)
    async with alone(folder, wanted.deployment_id), aiohttp.ClientSession(trust_env=True) as http:
        cache = Cache(folder / wanted.deployment_id)
        holding = CachedFiles(wanted.deployment_id, wanted.manifest_digest, wanted.files)
        cache.hold(holding)
        puller = Puller(cache, http)
        try:
            await puller.discard_damaged(wanted.files)
            missing = [file for file in wanted.files if not cache.has(file)]
            grants = partial(ask_for_grant, wanted.deployment_id, copy_in(folder))
            with cache.room_for(holding):
                await puller.pull(missing, grants, lambda _: None)
        finally:
            puller.close()
        layout = lay_out(wanted)
        view, finished = cache.folder / "views" / wanted.deployment_id, cache.folder / "laid-out"
        if missing or not finished.exists():  # else another replica may be reading it
            finished.unlink(missing_ok=True)
            layout.finish(cache.view(holding, layout.files))
            finished.touch()
        return view


class NodeDeployment:
    """Runs a deployment on this node, as an agent does on its own machine."""

    def __init__(self, plan: Deploy, resources: Resources) -> None:
        self._plan = plan
        self._resources = resources
        self._deployment: Deployment | None = None
        self._http: aiohttp.ClientSession | None = None
        self._puller: Puller | None = None
        self._failure: str | None = None
        self._decided = asyncio.Event()

    @property
    def serving(self) -> Serving:
        """Raises EngineError unless the engine runs."""
        serving = self._deployment.serving if self._deployment is not None else None
        if serving is None or self._failure is not None:
            raise EngineError(self._failure or "The engine has ended.")
        return serving

    async def start(self) -> None:
        """Returns when the engine has given an answer. Raises EngineError."""
        plan = self._plan
        folder = cache_folder(plan.settings.cache)
        async with alone(folder, plan.wanted.deployment_id):
            self._run(folder)
            await self._decided.wait()
            if self._failure is not None:
                await self.stop()
                raise EngineError(self._failure)

    async def stop(self) -> None:
        if self._deployment is not None:
            await self._deployment.end(0)
        if self._puller is not None:
            self._puller.close()
        if self._http is not None:
            await self._http.close()

    def _run(self, folder: Path) -> None:
        wanted, needs = self._plan.wanted, self._resources
        cache = Cache(folder / wanted.deployment_id)
        self._http = aiohttp.ClientSession(trust_env=True)
        self._puller = Puller(cache, self._http)
        engines = EngineSource(
            cache.folder,
            self._plan.settings.engine,
            parallel=self._plan.parallel,
            gpu=needs.gpus > 0,
            threads=max(1, int(needs.cpus)),
        )
        context = DeploymentContext(
            cache,
            self._puller,
            engines,
            RamBudget(memory_bytes()),
            partial(ask_for_grant, copy=copy_in(folder)),
            self._on_report,
            retry_first=RETRY_CAP,  # Serve replaces the replica before
        )
        self._deployment = Deployment(wanted, context)

    def _on_report(self, report: Report) -> None:
        if report.phase is Phase.FAILED:
            self._failure = report.reason or "The engine failed."
        if report.phase in (Phase.FAILED, Phase.READY):
            self._decided.set()
