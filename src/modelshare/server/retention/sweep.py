"""Forgets old records, in small steps, and exports the audit log before it does."""

import asyncio
import fcntl
import functools
import io
import itertools
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare import private_files
from modelshare.server.audit.tables import AuditRow
from modelshare.server.db import Database
from modelshare.server.http import Platform
from modelshare.server.retention import queries

log = structlog.get_logger()
_EVERY_SECONDS: Final = 3600
_FIRST_SECONDS: Final = 300
"""The longest time until the first sweep."""
_DAY: Final = 24 * 3600
_LONGEST_LINE: Final = 1 << 20
Forget = Callable[[AsyncSession, int], Awaitable[int]]
"""Deletes up to STEP rows from before a point in time; returns how many."""


class Retention:
    """Forgets once an hour what is older than the settings allow, for the first time some minutes after the start, so
    that a server that is often restarted forgets as well. Not all processes begin at the same moment."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._due = platform.now() + random.randint(0, _FIRST_SECONDS)  # noqa: S311 - no secret

    async def sweep_when_due(self) -> None:
        now = self._platform.now()
        if now >= self._due:
            await self.sweep()
            self._due = now + _EVERY_SECONDS

    async def sweep(self) -> None:
        now = self._platform.now()
        for forget, days in self._kept():
            await self._repeat(functools.partial(self._step, forget, now - days * _DAY))
        before = now - self._platform.settings.audit_days * _DAY
        await self._repeat(functools.partial(self._forget_audit_entries, before))

    def _kept(self) -> Iterator[tuple[Forget, int]]:
        settings = self._platform.settings
        yield queries.forget_confirmations, settings.audit_confirmations_days
        yield queries.forget_weight_deletions, settings.deletions_days
        for forget in (
            *(queries.forget_keys, queries.forget_join_keys, queries.forget_agents),
            *(queries.forget_uploads, queries.forget_imports, queries.forget_moves),
        ):
            yield forget, settings.records_days

    async def _repeat(self, step: Callable[[], Awaitable[int]]) -> None:
        while await step() >= queries.STEP:
            continue

    async def _step(self, forget: Forget, before: int) -> int:
        async with self._platform.database.write() as session:
            return await forget(session, before)

    async def _forget_audit_entries(self, before: int) -> int:
        async with self._platform.database.read() as session:
            rows = await queries.audit_entries(session, before=before)
        folder = self._platform.settings.audit_archive_dir
        if rows and folder is not None:
            await asyncio.to_thread(_archive, folder, rows)
        async with self._platform.database.write() as session:
            await queries.forget_audit_entries(session, [row.id for row in rows])
        if rows:
            log.info("forgot old audit entries", count=len(rows))
        return len(rows)


async def export_audit(database: Database, file: Path, *, before: int) -> int:
    """Writes all entries of the audit log from before this time to a new file, oldest first; returns how many."""
    after, count = None, 0
    file.touch(mode=0o600, exist_ok=False)
    with file.open("wb") as written:
        while True:
            async with database.read() as session:
                rows = await queries.audit_entries(session, before=before, after=after)
            if not rows:
                return count
            written.writelines(map(_line, rows))
            after, count = rows[-1].id, count + len(rows)


def _archive(folder: Path, rows: Sequence[AuditRow]) -> None:
    """Appends to a file per month of the entries. After a crash, it may have some entries twice, with equal ids."""
    private_files.folder(folder)
    for month, entries in itertools.groupby(rows, lambda row: time.strftime("%Y-%m", time.gmtime(row.at))):
        file = folder / f"audit-{month}.jsonl"
        private_files.touch(file)
        _append(file, b"".join(map(_line, entries)))


def _append(file: Path, lines: bytes) -> None:
    """Appends all lines or, if the disk is full, none: attempts that fail must not fill it."""
    with file.open("r+b", buffering=0) as written:
        fcntl.flock(written, fcntl.LOCK_EX)  # several processes may archive to the same folder
        end = _end_of_lines(written)
        written.truncate(end)
        written.seek(end)
        left = memoryview(lines)
        try:
            while left:
                left = left[written.write(left) :]
            os.fsync(written.fileno())
        except OSError:
            written.truncate(end)
            raise


def _end_of_lines(file: io.FileIO) -> int:
    """After the last complete line: a process that was killed may have left the beginning of one."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _LONGEST_LINE))
    return start + file.read(size - start).rfind(b"\n") + 1


def _line(row: AuditRow) -> bytes:
    entry = {
        column.key: getattr(row, column.key) for column in AuditRow.__table__.columns if column.key != "changed_ms"
    }
    return json.dumps({**entry, "id": str(row.id)}, ensure_ascii=False).encode() + b"\n"
