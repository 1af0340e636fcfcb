"""`modelshare serve`: one process with everything in it."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from granian.constants import Interfaces
from granian.server.embed import Server

from modelshare import private_files
from modelshare.server import reached, starting
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application
from modelshare.server.errors import Conflict
from modelshare.server.logs import configure
from modelshare.server.settings import Settings, SettingsError
from modelshare.wire.keys import ProjectCreate

log = structlog.get_logger()

BACKLOG = 1024
START_SECONDS = 30


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The credentials of a fresh platform: shown once, since only their hashes are stored."""

    platform_key: str
    project_id: str
    project_slug: str
    project_key: str


Started = Callable[[str, FirstRun | None], Awaitable[None]]
"""Called with the platform's URL once it answers, and with its first credentials if it was empty."""


def run(settings: Settings, started: Started) -> None:
    """Serves until SIGINT or SIGTERM. SettingsError says what keeps it from starting."""
    os.umask(private_files.UMASK)
    configure(settings.log_format)
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - a faster event loop where the platform has it

        uvloop.install()
    asyncio.run(serve(settings, started))


async def serve(settings: Settings, started: Started) -> None:
    """As `run`, on a running event loop."""
    port = _free_port(settings.host, settings.port)
    settings = settings.model_copy(update={"port": port})
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if settings.public_url is None and not reached.is_loopback(settings.host):
        log.warning("public_url is not set: links name this machine's addresses, no name and no proxy in front of it")
    async with starting.started(settings) as application:
        first_run = await first_credentials(application)
        gc.freeze()  # what is there now stays: a full round of the garbage collector need not look through it
        gc.enable()  # it is off while the program starts
        server = Server(
            application,
            address=settings.host,
            port=port,
            interface=Interfaces.ASGINL,
            backlog=BACKLOG,
            log_enabled=False,
        )
        serving = asyncio.create_task(server.serve())
        greeting = asyncio.create_task(_greet(settings, serving, started, first_run))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        greeting.cancel()
        stopping.cancel()
        await asyncio.gather(greeting, stopping, return_exceptions=True)
        await application.end_streams()
        server.stop()  # type: ignore[no-untyped-call]
        await serving


async def first_credentials(application: Application) -> FirstRun | None:
    """Makes a platform key and a first project on an empty platform; None on any other."""
    now = application.platform.now()
    try:
        async with application.database.write() as session:
            if await accounts.has_platform_key(session):
                return None
            platform_key = await accounts.create_platform_key(session, "first platform key", now=now)
            request = ProjectCreate(name="First project", slug="first")
            project = await accounts.create_project(session, request, now=now, actor="system")
    except Conflict:  # another process, started at the same moment, was first
        return None
    return FirstRun(platform_key, project.id, project.slug, project.api_key)


async def _greet(
    settings: Settings, serving: "asyncio.Task[None]", started: Started, first_run: FirstRun | None
) -> None:
    """Waits until the port answers, then says so."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    for _ in range(START_SECONDS * 100):
        try:
            _, writer = await asyncio.open_connection(host, settings.port)
        except OSError:
            if serving.done():
                return
            await asyncio.sleep(0.01)
        else:
            writer.close()
            break
    name = f"[{host}]" if ":" in host else host
    await started(settings.public_url or f"http://{name}:{settings.port}", first_run)


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; says so plainly when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port."
            ) from error
        return int(probe.getsockname()[1])
