"""`modelshare serve`: one process with everything in it."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from modelshare.server import settings as settings_module
from modelshare.server.accounts import service as accounts
from modelshare.server.app import Application, create_app
from modelshare.server.logs import configure
from modelshare.server.migrations import downgrade, upgrade
from modelshare.server.db import Database
from modelshare.wire.keys import ProjectCreate

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The credentials of a fresh platform: shown once, since only their hashes are stored."""

    platform_key: str
    project_id: str
    project_slug: str
    project_key: str


Started = Callable[[str, FirstRun | None], Awaitable[None]]
"""Called with the platform's URL once it answers, and with its first credentials if it was empty."""


async def serve(settings: settings_module.Settings, started: Started) -> None:
    """Serves until SIGINT or SIGTERM."""
    configure(settings.log_format)
    application = create_app(settings)
    async with application.running():
        first_run = await first_credentials(application)
        server = _server(application, settings)
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        serving = asyncio.create_task(server.serve())
        try:
            url = await _listening(settings, serving)
            greeting = asyncio.create_task(started(url, first_run))
            waiting = asyncio.create_task(stop.wait())
            await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
            greeting.cancel()
            waiting.cancel()
        finally:
            server.stop()
            await asyncio.wait({serving}, timeout=10)
