"""An archive's files, unpacked beside the database and taken over by the storage one by one."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from modelshare.server.http import Platform
from modelshare.server.registry.archive import ExtractedFile, extract, kind_of
from modelshare.server.registry.archive_selection import ArchiveSelection
from modelshare.server.registry.blobs import queries, staging
from modelshare.server.registry.blobs.quota import quota_of
from modelshare.server.registry.processing.keeping import Arrived
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.tables import UploadRow
from modelshare.server.storage.local import KEEP_FREE
from modelshare.wire.left_out import IGNORE_FILE, LeftOut, Selection, ignore_file_lines, note


async def unpack(
    platform: Platform, upload: UploadRow, key: str, selection: Selection
) -> tuple[list[Arrived], str | None]:
    """Unpacks the archive at `key` within the project's quota; its files, and a note of what was left out.

    Raises Refused for one that must not be unpacked.
    """
    assert upload.archive is not None  # noqa: S101 - asked for archives only
    room = await _room(platform, upload)
    folder = platform.settings.data_dir.absolute() / "unpacking" / upload.id.hex
    try:
        async with platform.store.local_copy(key) as archive:
            extracted, left_out = await asyncio.to_thread(_extract, archive, upload.archive, folder, room, selection)
        arrived = [await _store(platform, upload, n, folder, file) for n, file in enumerate(extracted)]
        return arrived, note(left_out)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _extract(
    archive: Path, name: str, folder: Path, max_bytes: int, selection: Selection
) -> tuple[list[ExtractedFile], Sequence[LeftOut]]:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    folder.mkdir(mode=0o700, parents=True)
    named = folder / name  # errors speak of the archive by the name its owner knows
    named.symlink_to(archive)
    chosen = ArchiveSelection(selection)
    try:
        files = extract(named, kind_of(name), folder / "files", max_bytes=max_bytes, chosen=chosen)
        again = chosen.again(_ignored(folder / "files", files))
    except ModelRejectedError:
        again = chosen.again(None) if chosen.top is None else None
        if again is None:
            raise
    if again is not None:
        shutil.rmtree(folder / "files", ignore_errors=True)
        chosen = again
        files = extract(named, kind_of(name), folder / "files", max_bytes=max_bytes, chosen=chosen)
    return files, chosen.left_out


def _ignored(folder: Path, files: Sequence[ExtractedFile]) -> Sequence[str] | None:
    """The lines of the ignore file; none where there is another of that name only, which is left out all the same."""
    if not any(file.path.rpartition("/")[2] == IGNORE_FILE for file in files):
        return None
    try:
        return ignore_file_lines(folder)
    except ValueError as error:
        raise ModelRejectedError(f"{error}. Write it again, and push again.") from error


async def _store(platform: Platform, upload: UploadRow, n: int, folder: Path, file: ExtractedFile) -> Arrived:
    key = staging.unpacked_key(upload.project_id, upload.id, n)
    await platform.store.put_file(key, folder / "files" / file.path)
    return Arrived(file.path, file.size, file.sha256, key=key, proven_at=platform.now())


async def _room(platform: Platform, upload: UploadRow) -> int:
    """Bytes that the project may still store, as far as the disk has room; the archive itself goes afterwards."""
    async with platform.database.read() as session:
        project = await queries.project(session, upload.project_id)
        used = await queries.stored_bytes(session, upload.project_id) - upload.bytes_total
    disk = await asyncio.to_thread(shutil.disk_usage, platform.settings.data_dir)
    return max(0, min(quota_of(project, platform.settings) - used, disk.free - KEEP_FREE))
