"""The agent's end: starts `driver.py` and talks to it."""

import asyncio
import os
import socket
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, Self

from modelshare.agent.engines.base import EngineError
from modelshare.agent.engines.child import Child
from modelshare.agent.ray_serve.messages import (
    LONGEST_LINE,
    Delete,
    Deploy,
    FromAgent,
    FromDriver,
    from_driver,
    line,
)

_CONNECT_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 60.0
"""For replicas to finish their requests, and for Serve to delete the application."""


async def _check(address: str) -> None:
    """Whether anything answers there, which Ray itself takes a minute to find out. Raises EngineError."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else "no answer in time"
        raise EngineError(f"No Ray cluster answers at {address}: {why}.") from error
    writer.close()


class DriverConnection:
    def __init__(self, child: Child, reader: StreamReader, writer: StreamWriter) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, plan: Deploy | Delete, state_dir: Path) -> Self:
        """Raises EngineError if no cluster answers, or the program cannot be started."""
        await _check(plan.settings.address)
        ours, its = socket.socketpair()
        with its:
            argv = (sys.executable, "-P", "-m", "modelshare.agent.ray_serve.driver", str(its.fileno()))
            try:
                child = await Child.spawn(argv, {"RAY_USAGE_STATS_ENABLED": "0"}, state_dir, pass_fds=(its.fileno(),))
            except BaseException:
                ours.close()
                raise
        try:
            connection = cls(child, *await asyncio.open_unix_connection(sock=ours, limit=LONGEST_LINE))
        except BaseException:
            await child.destroy(_STOP_SECONDS)
            raise
        connection.send(plan)
        return connection

    @property
    def log(self) -> Sequence[str]:
        return list(self._child.log)

    def send(self, message: FromAgent) -> None:
        self._writer.write(line(message))

    async def messages(self) -> AsyncIterator[FromDriver]:
        """All until the program has ended."""
        while received := await self._reader.readline():
            yield from_driver(received)

    async def stop(self) -> None:
        """Deletes the application and ends the program."""
        await self._child.destroy(_STOP_SECONDS)
        self._writer.close()
