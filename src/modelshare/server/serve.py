"""`modelshare serve`: the whole platform in one process."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from modelshare import garbage_collection, private_files
from modelshare.server import public_url, startup
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application
from modelshare.server.background import wait
from modelshare.server.errors import ConflictError
from modelshare.server.front.server import Front, raise_file_limit
from modelshare.server.logs import configure
from modelshare.server.settings import Settings, SettingsError
from modelshare.wire.keys import ProjectCreate

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The credentials of a new platform. Shown once, since only their hashes are stored."""

    platform_key: str
    project_id: str
    project_slug: str
    project_key: str


Started = Callable[[str, FirstRun | None], Coroutine[Any, Any, None]]
"""Called once the platform answers, with its URL, and with the first credentials if it was empty."""


def run(settings: Settings, started: Started) -> None:
    """Serves until SIGINT or SIGTERM. Raises SettingsError if it cannot start."""
    os.umask(private_files.UMASK)
    configure(settings.log_format)
    raise_file_limit()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - a faster event loop where the platform has it

        uvloop.install()
    asyncio.run(serve(settings, started))


async def serve(settings: Settings, started: Started) -> None:
    """As `run`, on a running event loop."""
    listener = _listener(settings.host, settings.port)
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    if settings.public_url is None and not public_url.is_loopback(settings.host):
        log.warning("public_url is not set: links contain this machine's addresses, not a host name or a proxy")
    with listener:
        async with startup.started(settings) as application:
            first_run = await first_credentials(application)
            garbage_collection.settle()
            front = Front(application, settings, application.handler)
            async with front.serving(listener):
                greeting = asyncio.create_task(started(_url(settings), first_run))
                await stop.wait()
                greeting.cancel()
                await asyncio.gather(greeting, return_exceptions=True)
                log.info("stopping; a second signal ends requests in progress")
                second_signal = asyncio.ensure_future(stop_now.wait())
                second_signal.add_done_callback(lambda _: front.stop_now())
                front.leave()
                if await application.leave():
                    await wait(stop_now, settings.shutdown_notice_seconds)
                await application.end_streams()
            second_signal.cancel()


async def first_credentials(application: Application) -> FirstRun | None:
    """Creates a platform key and a first project if the platform is empty; else None."""
    now = application.platform.now()
    try:
        async with application.database.write() as session:
            if await accounts.has_platform_key(session):
                return None
            platform_key = await accounts.create_platform_key(session, "first platform key", now=now)
            request = ProjectCreate(name="First project", slug="first")
            project = await accounts.create_project(session, request, now=now, actor="system")
    except ConflictError:  # another process that started at the same moment was first
        return None
    return FirstRun(platform_key, project.id, project.slug, project.api_key)


def _url(settings: Settings) -> str:
    """`public_url`, or the URL for clients on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - compared, not bound
    name = f"[{host}]" if ":" in host else host
    return settings.public_url or f"http://{name}:{settings.port}"


def _listener(host: str, port: int) -> socket.socket:
    """A socket bound to the port, or to a free one for 0. Raises SettingsError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another port with --port."
        ) from error
    return listener
