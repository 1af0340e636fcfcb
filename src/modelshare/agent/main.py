"""The agent program: runs until a signal, or until the server removes the agent."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from modelshare import garbage_collection, private_files
from modelshare.agent.direct.options import DirectOptions
from modelshare.agent.engine_pool import EnginePool
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.engines.base import ExternalServer
from modelshare.agent.engines.leftovers import reap_leftovers
from modelshare.agent.errors import RemovedError, StopError
from modelshare.agent.hardware import capabilities
from modelshare.agent.identity import Identity, forget_identity, load_identity, lock_data_dir, save_identity
from modelshare.agent.logs import log_to_stderr
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.agent.server_api import ServerApi
from modelshare.agent.wiring import Agent
from modelshare.wire.agents import Enroll
from modelshare.wire.signing import PublicKey

T = TypeVar("T")

_log = logging.getLogger(__name__)


def run(
    *,
    url: str,
    join_key: str | None,
    data_dir: Path,
    name: str | None = None,
    engine: str | None = None,
    external_url: str | None = None,
    ray: RaySettings = RaySettings(),  # noqa: B008 - immutable
    parallel: int | None = None,
    json_logs: bool = False,
    signers: tuple[PublicKey, ...] = (),
    direct: DirectOptions = DirectOptions(),  # noqa: B008 - immutable
) -> int:
    """Runs the agent and returns its exit code: 0 after SIGTERM or SIGINT, 1 if it cannot continue.

    `url` is the server's address. `join_key` (`msj_...`) is needed only for the first start on a data folder. `name`
    defaults to the machine's name. `engine` is the only engine to use; by default it is chosen for each model.
    `external_url` is the OpenAI base URL of an engine that is already running. `ray` is for the engine of this name.
    `parallel` is the number of sequences that an engine processes at once. With `signers`, only models that one of
    these keys signed are served. `direct` says whether other agents may fetch files from this one, and where it may
    connect to others.
    """
    os.umask(private_files.UMASK)
    log_to_stderr(as_json=json_logs)
    machine = name or socket.gethostname()
    options = Options(url, join_key, data_dir.resolve(), machine, engine, external_url, ray, parallel, signers, direct)
    try:
        with lock_data_dir(options.data_dir), asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_main(options))
    except StopError as stop:
        _log.error("%s", stop)
        return 1
    return 0


async def _main(options: "Options") -> None:
    stopping, second_signal = on_signals()
    reap_leftovers(options.data_dir)
    external = ExternalServer(options.external_url) if options.external_url else None
    engines = EngineSource(options.data_dir, options.engine, external, ray=options.ray, parallel=options.parallel)
    async with aiohttp.ClientSession(trust_env=True) as http, EnginePool() as engine_pool:
        if (identity := await unless_stopping(stopping, _identity(options, http, engines))) is None:
            return
        parts = (options.data_dir, engines, http, engine_pool)
        agent = Agent(options.url, identity, *parts, signers=options.signers, direct=options.direct)
        agent.listen()
        garbage_collection.settle()
        linking = asyncio.create_task(agent.link.run())
        try:
            await unless_stopping(stopping, asyncio.shield(linking))
            _log.info("Stopping: waiting for requests in progress. Press Ctrl-C again to stop immediately.")
        except RemovedError:
            await agent.remove_all()
            forget_identity(options.data_dir)
            raise
        finally:
            ending = asyncio.create_task(agent.stop())
            immediate = asyncio.create_task(second_signal.wait())
            await asyncio.wait([ending, immediate], return_when=asyncio.FIRST_COMPLETED)
            immediate.cancel()
            linking.cancel()  # and with it all requests, so that the engines have nothing left to finish
            await asyncio.wait([linking, ending])


async def _identity(options: "Options", http: aiohttp.ClientSession, engines: EngineSource) -> Identity:
    if (known := load_identity(options.data_dir)) is not None:
        return known
    if not options.join_key:
        raise StopError(
            "This data folder has no enrolled agent yet. Provide a join key (MODELSHARE_JOIN_KEY=msj_..., or "
            "--join-key-file)."
        )
    machine = capabilities(options.data_dir, engines.kinds())
    request = Enroll(join_key=options.join_key, name=options.name, capabilities=machine)
    enrolled = await ServerApi(http, options.url).enroll(request)
    identity = Identity(enrolled.agent_id, enrolled.token, enrolled.verdict_key)
    save_identity(options.data_dir, identity)
    _log.info("Enrolled as agent %s. The join key is no longer needed.", identity.agent_id)
    return identity


@dataclass(frozen=True, slots=True)
class Options:
    """The parameters of `run`."""

    url: str
    join_key: str | None
    data_dir: Path
    name: str
    engine: str | None
    external_url: str | None
    ray: RaySettings
    parallel: int | None
    signers: tuple[PublicKey, ...]
    direct: DirectOptions


def on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Returns two events: the first signal sets the first one, the next signal the second one."""
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return first, second


async def unless_stopping(stopping: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None if `stopping` is set first."""
    job, stop = asyncio.ensure_future(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({job, stop}, return_when=asyncio.FIRST_COMPLETED)
        return job.result() if job.done() else None
    finally:
        stop.cancel()
        job.cancel()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uses uvloop if installed: it halves the time per relayed request."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop
