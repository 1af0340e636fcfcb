"""Runs until a signal: registers a folder's files as a version, and serves them."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from modelshare import private_files
from modelshare.agent.direct.options import DirectOptions
from modelshare.agent.errors import RemovedError, StopError, UnknownAgentError
from modelshare.agent.hardware import capabilities
from modelshare.agent.hold.files import HeldFiles
from modelshare.agent.hold.holder import Holder
from modelshare.agent.hold.limits import Hours
from modelshare.agent.identity import (
    Identity,
    forget_identity,
    identity_path,
    load_identity,
    lock_data_dir,
    save_identity,
)
from modelshare.agent.main import loop_factory, on_signals, unless_stopping
from modelshare.agent.server_api import ServerApi
from modelshare.client import Client
from modelshare.client.errors import ConnectError, ModelFailedError, ServerError
from modelshare.client.source import PushSource
from modelshare.transfer.tasks import run_all
from modelshare.wire.agents import Enroll, JoinKeyCreate
from modelshare.wire.held import HeldOpen, HeldVersion
from modelshare.wire.models import ModelStatus, Version
from modelshare.wire.uploads import FileEntry, UploadOpen

_log = logging.getLogger(__name__)
_JOIN_SECONDS = 600
_POLL_SECONDS = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The parameters of `hold`."""

    client: Client
    path: Path
    """What is held."""
    data_dir: Path
    spec: UploadOpen
    """What is to be registered, without digests."""
    rate: int | None
    hours: Hours | None
    direct: DirectOptions
    moved: Callable[[int], None]
    """Called with numbers of bytes while files are hashed."""
    hashed: Callable[[], None]
    """Called when that is done."""
    ready: Callable[[HeldVersion, Version], None]
    """Called when the version is ready, and its files are served."""


def run(source: PushSource, options: Options) -> None:
    """Returns after SIGTERM or SIGINT. Raises StopError, ModelFailedError and other errors of the client, OSError."""
    os.umask(private_files.UMASK)
    with lock_data_dir(options.data_dir), asyncio.Runner(loop_factory=loop_factory()) as runner:
        files = HeldFiles(options.data_dir)
        digests = files.hash(options.path, source.files, options.moved)
        options.hashed()
        if options.client.config.api_key is None and not files.serves(digests.values()):
            raise StopError(
                "These files are not registered yet, which needs your project's key: `modelshare login`, or "
                "MODELSHARE_API_KEY."
            )
        files.serve(source.files, digests)
        try:
            runner.run(_main(source, files, digests, options))
        except RemovedError as removed:
            forget_identity(options.data_dir)
            raise StopError(
                "This machine was removed from the project's agents, so that its files are no longer served. They are "
                "unchanged. Run the command again to register them again."
            ) from removed
        except UnknownAgentError as unknown:
            raise StopError(
                "The platform does not know this machine any more, as after it was restored from an old backup. To "
                f"register the files again, delete {identity_path(options.data_dir)} and run the command again; it "
                "needs no join key."
            ) from unknown


async def _main(source: PushSource, files: HeldFiles, digests: dict[str, str], options: Options) -> None:
    stopping, _ = on_signals()
    url = options.client.config.url
    async with aiohttp.ClientSession(trust_env=True) as http:
        if (identity := await unless_stopping(stopping, _identity(http, options))) is None:
            return
        data_dir, rate, hours = options.data_dir, options.rate, options.hours
        holder = Holder(url, identity, data_dir, files, http, rate=rate, hours=hours, direct=options.direct)

        async def register() -> None:
            await holder.connected.wait()
            if options.client.config.api_key is None:
                _log.info("Serving files that are registered already.")
                return
            held = await _reached(lambda: _register(source, digests, identity.agent_id, options))
            options.ready(held, await _until_ready(options.client, held))

        try:
            holder.listen()
            await unless_stopping(stopping, run_all([holder.link.run(), holder.watch(), register()]))
            _log.info("Stopping. Pulls wait until this command runs again.")
        finally:
            await holder.stop_listening()
            holder.close()


def _register(source: PushSource, digests: dict[str, str], holder: str, options: Options) -> HeldVersion:
    """Blocks. The same files again give the same version, so that it may be repeated."""
    entries = [FileEntry(path=file.path, size=file.size, sha256=digests[file.path]) for file in source.files]
    fields = options.spec.model_dump(exclude_unset=True) | {"files": entries, "holder": holder}
    return options.client.models.hold(HeldOpen(**fields))


async def _until_ready(client: Client, held: HeldVersion) -> Version:
    """Raises ModelFailedError with the reason."""
    while True:
        for found in await _reached(lambda: list(client.models.versions(held.model))):
            if found.version == held.version and found.status is ModelStatus.FAILED:
                raise ModelFailedError(held.model, found.status_reason or "The server gave no reason.")
            if found.version == held.version and found.status in {ModelStatus.READY, ModelStatus.ACTIVE}:
                return found
        await asyncio.sleep(_POLL_SECONDS)


async def _reached(request: Callable[[], T]) -> T:
    """The result of a blocking request. Waits while the platform is not there: it may be restarting."""
    while True:
        try:
            return await asyncio.to_thread(request)
        except (ConnectError, ServerError) as error:
            _log.warning("The platform is not responding: %s Trying again.", error)
        await asyncio.sleep(_POLL_SECONDS)


async def _identity(http: aiohttp.ClientSession, options: Options) -> Identity:
    """Enrols with a join key made for this once."""
    if (known := load_identity(options.data_dir)) is not None:
        return known
    name = f"{socket.gethostname()[:60]} holds {options.spec.name[:30]}"
    join_keys = options.client.join_keys
    key = await asyncio.to_thread(join_keys.create, JoinKeyCreate(name=name, expires_in=_JOIN_SECONDS))
    try:
        machine = capabilities(options.data_dir, [])
        request = Enroll(join_key=key.key, name=name, is_holder=True, capabilities=machine)
        enrolled = await ServerApi(http, options.client.config.url).enroll(request)
    finally:
        await asyncio.to_thread(join_keys.revoke, key.id)
    identity = Identity(enrolled.agent_id, enrolled.token, enrolled.verdict_key)
    save_identity(options.data_dir, identity)
    return identity
