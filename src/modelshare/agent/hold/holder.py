"""Serves held files over the agent's connection: ranges by digest, checked before every read, within the owner's
limits."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from modelshare.agent.direct.files import RefusedError
from modelshare.agent.direct.listener import Listener
from modelshare.agent.direct.options import DirectOptions
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.errors import AgentError
from modelshare.agent.fleet_status import FleetStatus
from modelshare.agent.hardware import capabilities
from modelshare.agent.hold.files import (
    FileGoneError,
    FolderAwayError,
    HeldFiles,
    NotHeldError,
    OpenFile,
    UncheckedError,
)
from modelshare.agent.hold.limits import Hours, Rate
from modelshare.agent.identity import Identity
from modelshare.agent.link import Link
from modelshare.agent.server_api import ServerApi
from modelshare.agent.streams import Stream
from modelshare.transfer.tasks import in_thread
from modelshare.wire.held import READ_ROUTE, HeldChange, HeldChanges, HeldRead, decode_read
from modelshare.wire.link import OLDEST_PROTOCOL, PROTOCOL, Desired, Hello, Welcome
from modelshare.wire.verdict import Verdict

_log = logging.getLogger(__name__)

_READS_AT_ONCE: Final = 16
"""Pieces of files in memory."""
_CHECK_SECONDS: Final = 2.0
"""How long a reader waits for a file to be hashed again before it is told to come back."""
_BACK_LATER: Final = 15
WATCH_SECONDS: Final = 60.0
_DONE: Final = TokenUsage()


class HeldFile:
    """A held file that is open for one reader; a `ServedFile`."""

    def __init__(self, holder: "Holder", opened: OpenFile) -> None:
        self._holder = holder
        self._opened = opened
        self.size = opened.identity.size
        self.piece = holder.rate.piece
        """Bytes to read at once."""

    async def readable_to(self, at: int, end: int) -> int:  # noqa: ARG002 - all of the file is here
        """See `ServedFile`."""
        return end

    async def read(self, at: int, limit: int) -> bytes:
        """See `ServedFile`."""
        return await self._holder.read(self._opened, at, min(limit, self.piece))

    def close(self) -> None:
        self._opened.close()


class Holder:
    """Implements `link.LinkHandler`. Run `link.run()` and `watch()`; call `close` at the end."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        data_dir: Path,
        files: HeldFiles,
        http: aiohttp.ClientSession,
        *,
        rate: int | None = None,
        hours: Hours | None = None,
        local_time: Callable[[], datetime] = lambda: datetime.now().astimezone(),
        watch_seconds: float = WATCH_SECONDS,
        direct: DirectOptions = DirectOptions(),  # noqa: B008 - immutable
    ) -> None:
        self.link = Link(url, identity.token, self)
        self.connected = asyncio.Event()
        self._api = ServerApi(http, url, identity.token)
        self._fleet_status = FleetStatus(self._api, identity, data_dir)
        self._data_dir = data_dir
        self._files = files
        self.rate = Rate(rate)
        self._hours = hours
        self._local_time = local_time
        self._watch_seconds = watch_seconds
        self._look = asyncio.Event()
        self._reading = asyncio.Semaphore(_READS_AT_ONCE)
        self._readers = ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="held-read")
        self._hashers = ThreadPoolExecutor(1, thread_name_prefix="held-hash")
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._reported: set[str] = set()
        self._direct = direct
        self._listener = Listener(self, lambda: self._fleet_status.key)

    def listen(self) -> None:
        """Lets agents with a grant fetch files from here, if the operator allows it. Raises StopError."""
        self._listener.start(self._direct, self._data_dir)

    async def stop_listening(self) -> None:
        await self._listener.close()

    def close(self) -> None:
        self._readers.shutdown()
        self._hashers.shutdown()

    def hello(self) -> Hello:
        """See `link.LinkHandler`."""
        machine = capabilities(self._data_dir, [])
        memory, disk = machine.memory_bytes or 0, machine.disk_free_bytes or 0
        version, accelerator = machine.agent_version, machine.accelerator
        direct = self._listener.announced(self._direct)
        return Hello(OLDEST_PROTOCOL, version, [], accelerator, memory, disk, newest_protocol=PROTOCOL, direct=direct)

    def welcomed(self, welcome: Welcome) -> None:
        """See `link.LinkHandler`."""
        self._fleet_status.store_key(welcome.verdict_key)
        self.connected.set()

    async def verdict(self) -> Verdict | None:
        """See `link.LinkHandler`."""
        return await self._fleet_status.verdict()

    def desired(self, desired: Desired) -> None:
        """See `link.LinkHandler`. A holder runs no models."""

    async def watch(self) -> None:
        """Looks at all files again and again, and tells the platform of those that have changed."""
        while True:
            changes = await in_thread(self._hashers, self._files.changes)
            if changes.keys() != self._reported:
                await self._report(changes)
            try:
                async with asyncio.timeout(self._watch_seconds):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()

    def serve(self, stream: Stream) -> None:
        """See `link.LinkHandler`."""
        stream.run(self._answer(stream))

    async def _answer(self, stream: Stream) -> None:
        try:
            await self._send(stream)
        except RefusedError as refused:
            _refuse(stream, refused)
        except Exception:  # noqa: BLE001 - every request is answered: no reader must wait in vain
            _log.exception("A file could not be read.")
            why = "The owner's machine could not read the file."
            _refuse(stream, RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why, _BACK_LATER))

    async def _send(self, stream: Stream) -> None:
        wanted = _wanted(stream)
        file = await self.open(wanted.sha256)
        try:
            at, end = wanted.offset, wanted.offset + wanted.length
            if end > file.size:
                raise RefusedError(HTTPStatus.NOT_FOUND, "The file is shorter than that.")
            stream.head(HTTPStatus.OK, "application/octet-stream")
            while at < end:
                data = await file.read(at, min(end - at, file.piece, await stream.credit_left()))
                stream.chunk(data)
                at += len(data)
            stream.end(_DONE)
        finally:
            file.close()

    async def open(self, sha256: str) -> HeldFile:
        """See `ServedFiles`."""
        self._check_hours()
        while True:
            try:
                return HeldFile(self, await in_thread(self._readers, self._files.open, sha256))
            except UncheckedError as unchecked:
                await self._checked(unchecked.location)
            except FolderAwayError as away:
                why = "The files are not there now on the owner's machine."
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why, _BACK_LATER) from away
            except FileGoneError as gone:
                raise self._gone(gone) from gone
            except NotHeldError as unknown:
                raise RefusedError(HTTPStatus.NOT_FOUND, str(unknown)) from unknown

    async def read(self, opened: OpenFile, at: int, count: int) -> bytes:
        """Exactly these bytes, when the owner's limits allow it. Raises RefusedError."""
        async with self._reading:
            self._check_hours()
            await self.rate.take(count)
            try:
                return await in_thread(self._readers, opened.read, at, count)
            except FileGoneError as gone:
                raise self._gone(gone) from gone

    def _gone(self, gone: FileGoneError) -> RefusedError:
        self._look.set()
        return RefusedError(HTTPStatus.CONFLICT, str(gone))

    async def _checked(self, location: str) -> None:
        """Waits a little for the file to be hashed again; many readers may wait for the same."""
        check = self._checks.get(location)
        if check is None:
            check = asyncio.create_task(in_thread(self._hashers, self._files.check, location))
            self._checks[location] = check
            check.add_done_callback(lambda _: self._checks.pop(location, None))
        done, _ = await asyncio.wait({check}, timeout=_CHECK_SECONDS)
        if not done:
            why = "The owner's machine is checking the file again."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why, _BACK_LATER)
        try:
            check.result()
        except FileGoneError as gone:
            raise self._gone(gone) from gone

    def _check_hours(self) -> None:
        if self._hours is not None and (seconds := self._hours.seconds_until(self._local_time())):
            when = str(self._hours).replace("-", " to ")
            why = f"The owner's machine serves files only from {when}, in its local time."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why, seconds)

    async def _report(self, changes: Mapping[str, FileGoneError]) -> None:
        new = {sha256: gone for sha256, gone in changes.items() if sha256 not in self._reported}
        files = [HeldChange(sha256=sha256, is_missing=gone.is_missing) for sha256, gone in new.items()]
        try:
            if files:
                _log.warning("%d file(s) can no longer be served. %s", len(files), next(iter(new.values())))
                await self._api.report_changes(HeldChanges(files=files))
            self._reported = set(changes)
        except AgentError as error:
            _log.warning("The platform could not be told: %s", error)


def _wanted(stream: Stream) -> HeldRead:
    if stream.route != READ_ROUTE:
        raise RefusedError(HTTPStatus.NOT_FOUND, "This machine runs no models: it holds files.")
    try:
        return decode_read(bytes(stream.body))
    except msgspec.DecodeError as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "The range cannot be read.") from error


def _refuse(stream: Stream, why: RefusedError) -> None:
    if stream.started:
        stream.end(_DONE, str(why), why.status)
        return
    stream.answer(why.status, "application/json", why.body(), retry_after=why.retry_after)
