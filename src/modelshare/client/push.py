"""Push: uploads a directory, a `.gguf` file or an archive as a model.

Steps: open a session, or resume that of an earlier push; hash only files that the project may already store; send the
missing parts in parallel; compare what the server received with the files (`modelshare.client.sending`); complete the
session; wait until the server has processed it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar, cast

from modelshare.client.client import Client
from modelshare.client.errors import ModelFailedError, SourceError
from modelshare.client.file_reader import Reader
from modelshare.client.plan import (
    SMALL,
    Part,
    files_to_hash,
    missing_parts,
    opening,
    parts_to_compare,
)
from modelshare.client.polling import poll
from modelshare.client.sending import Sending, Sent
from modelshare.client.source import LocalFile, PushSource, find_secrets, read_source
from modelshare.wire.models import ExtendedModel, ModelStatus, Version
from modelshare.wire.secret_scan import ExposedSecret
from modelshare.wire.uploads import Upload, UploadState

JOBS = 4
"""Number of parts sent in parallel."""

Item = TypeVar("Item")


class PushPhase(StrEnum):
    DIGESTS = "digests"
    """Hashes all files, which stay where they are."""
    HASHING = "hashing"
    COMPARING = "comparing"
    """Compares parts sent by an earlier push with the files."""
    SENDING = "sending"
    CHECKING = "checking"
    """Reads files again to detect changes during the transfer."""
    PROCESSING = "processing"


class Progress:
    """Receives the progress of a push. Override the methods you need; they may be called from several threads."""

    def phase(self, phase: PushPhase, total: int, done: int) -> None:
        """A phase begins, with `done` of `total` bytes already done (both zero while checking or processing)."""

    def moved(self, size: int) -> None:
        """`size` more bytes were hashed or sent; negative when a part starts over."""

    def session(self, upload: Upload) -> None:
        """The session was opened or resumed."""

    def source(self, source: PushSource, exposed: Sequence[ExposedSecret]) -> None:
        """Called before anything is sent, with the files to push and lines that appear to contain keys."""


@dataclass(frozen=True, slots=True)
class Pushed:
    model: ExtendedModel
    version: str
    upload: Upload
    """The session before this push sent its first part."""
    bytes_sent: int
    latest_note: str | None = None
    """Why the version is not the latest, or (without `wait`) would not be if it were ready now."""


def push_model(
    client: Client,
    path: Path | str,
    *,
    name: str | None = None,
    version: str | None = None,
    make_latest: bool | None = None,
    version_notes: str | None = None,
    file: str | None = None,
    restart: bool = False,
    wait: bool = True,
    jobs: int = JOBS,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> Pushed:
    """Pushes the files at `path` as model `name` (default: the path's name). With `wait`, returns once it is ready.

    If interrupted, the next call resumes, even on another machine; `restart` discards earlier unfinished pushes of that
    name. With `make_latest` None the version becomes the latest if it is higher and not a pre-release; otherwise
    `Pushed.latest_note` says why not. `file` is the path of the model to describe and run, if there are several.
    `include` and `exclude` are `.gitignore` patterns: files to push that would be left out by default
    (`modelshare.wire.left_out`), and further files to leave out.

    Raises SourceError if something cannot be pushed, ModelFailedError with the server's reason, or another
    ModelshareError.
    """
    progress = progress or Progress()
    source = read_source(Path(path), include=include, exclude=exclude)
    name = name or source.name
    if name is None:
        raise SourceError(
            f"{Path(path).name!r} is not a valid model name. Use `--name` with letters, digits, `-`, `_` and `.`."
        )
    progress.source(source, find_secrets(source))
    if restart:
        _cancel_unfinished(client, name)
    with _workers(jobs) as (pool, stop):
        workers = _Workers(pool, jobs, Reader(source.files, stop), progress)

        def opened(digests: Mapping[str, str]) -> Upload:
            spec = opening(
                source,
                name,
                version,
                make_latest=make_latest,
                version_notes=version_notes,
                file=file,
                digests=digests,
            )
            return client.uploads.open(spec)

        upload, digests = _session(opened, source, workers)
        progress.session(upload)
        sent = _send(client, upload, source, digests, workers)
    note = client.uploads.complete(upload.id, sent.digests).latest_note
    if wait:
        progress.phase(PushPhase.PROCESSING, 0, 0)
        note = wait_until_ready(client, upload.model, upload.version).latest_note
    return Pushed(client.models.get(upload.model), upload.version, upload, sent.size, note)


def wait_until_ready(client: Client, model_id: str, version: str) -> Version:
    """Waits until the version is ready. Raises ModelFailedError with the reason if processing failed."""

    def find() -> Version | None:
        return next((item for item in client.models.versions(model_id) if item.version == version), None)

    def is_ready(found: Version | None) -> bool:
        if found is not None and found.status is ModelStatus.FAILED:
            reason = found.status_reason or "The server rejected the model without giving a reason."
            raise ModelFailedError(model_id, reason)
        return found is not None and found.status in {ModelStatus.READY, ModelStatus.ACTIVE}

    return cast("Version", poll(find, is_ready))


@dataclass(frozen=True, slots=True)
class _Workers:
    """What the steps of one push share: the threads, the reader, the progress."""

    pool: ThreadPoolExecutor
    jobs: int
    reader: Reader
    progress: Progress

    def all(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Processes all items in the pool; raises the first error without waiting for the rest."""
        for done in as_completed([self.pool.submit(work, item) for item in items]):
            done.result()


@contextmanager
def _workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """A thread pool that stops immediately on an exception such as Ctrl-C: queued parts are not sent."""
    stop = threading.Event()
    with ThreadPoolExecutor(jobs, thread_name_prefix="push") as pool:
        try:
            yield pool, stop
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _cancel_unfinished(client: Client, name: str) -> None:
    for upload in list(client.uploads.list(state=UploadState.OPEN, name=name)):
        client.uploads.cancel(upload.id)


def _session(
    opened: Callable[[Mapping[str, str]], Upload], source: PushSource, workers: _Workers
) -> tuple[Upload, dict[str, str]]:
    """The session to fill, and the digests of whole files known so far, by path."""
    digests: dict[str, str] = {}
    if not source.is_archive:
        _hash([file for file in source.files if file.size <= SMALL], digests, workers)
    upload = opened(digests)
    if candidates := files_to_hash(upload, source, digests):
        _hash(candidates, digests, workers)
        upload = opened(digests)  # resumes the same session; the server now skips files that it already stores
    return upload, digests


def _hash(files: list[LocalFile], digests: dict[str, str], workers: _Workers) -> None:
    workers.progress.phase(PushPhase.HASHING, sum(file.size for file in files), 0)

    def work(file: LocalFile) -> None:
        digests[file.path] = workers.reader.sha256(file, workers.progress.moved)

    workers.all(work, files)


def _changed(upload: Upload, source: PushSource, digests: dict[str, str], workers: _Workers) -> set[tuple[int, int]]:
    """Parts, as (file, part), that an earlier push sent and that no longer match the file."""
    by_path = {file.path: file for file in source.files}
    changed: set[tuple[int, int]] = set()
    unread: list[tuple[str, Part, str]] = []
    for path, part, digest in parts_to_compare(upload):
        known = digests.get(path) if part.size == by_path[path].size else None
        if known is None:
            unread.append((path, part, digest))
        elif known != digest:
            changed.add((part.n, part.k))
    if unread:
        workers.progress.phase(PushPhase.COMPARING, sum(part.size for _, part, _ in unread), 0)

    def work(item: tuple[str, Part, str]) -> None:
        path, part, digest = item
        if workers.reader.sha256(by_path[path], workers.progress.moved, part) != digest:
            changed.add((part.n, part.k))

    workers.all(work, unread)
    return changed


def _send(client: Client, upload: Upload, source: PushSource, digests: dict[str, str], workers: _Workers) -> Sent:
    changed = _changed(upload, source, digests, workers)
    size = sum(part.size for _, part in missing_parts(upload, changed))
    workers.progress.phase(PushPhase.SENDING, source.size, source.size - size)
    progress = workers.progress
    sending = Sending(
        client,
        upload,
        source,
        digests,
        workers.reader,
        progress.moved,
        lambda: progress.phase(PushPhase.CHECKING, 0, 0),
    )
    return sending.run(changed, workers.pool, workers.jobs)
