"""Push: a directory, a `.gguf` file or an archive becomes a model on the platform.

Open a session, or go on with the one that an earlier push left; hash only files that the project may store already;
send the parts that are missing, several at once; compare what has arrived with the files (see
`modelshare.client.sending`); complete; wait until the server has processed it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from modelshare.client.client import Client
from modelshare.client.errors import ConnectError, ModelFailedError, ServerError, SourceError
from modelshare.client.file_reader import Reader
from modelshare.client.plan import (
    SMALL,
    Part,
    missing_parts,
    opening,
    parts_to_compare,
    worth_hashing,
)
from modelshare.client.sending import Sending, Sent
from modelshare.client.source import LocalFile, PushSource, find_exposed, read_source
from modelshare.wire.models import ExtendedModel, ModelStatus, Version
from modelshare.wire.secret_scan import Exposed
from modelshare.wire.uploads import Upload, UploadState

JOBS = 4
"""Parts on their way at once."""
LONGEST_POLL = 2.0
"""Seconds between two questions whether the model is ready."""
PATIENCE = 120.0
"""Seconds that the server may be unreachable while the push waits for it, such as during its restart."""

Item = TypeVar("Item")


class PushPhase(StrEnum):
    HASHING = "hashing"
    COMPARING = "comparing"
    """Whether what an earlier push sent is still the same."""
    SENDING = "sending"
    CHECKING = "checking"
    """Whether a file changed while it was being sent."""
    PROCESSING = "processing"


class Progress:
    """Hears how a push gets on; override what you want to know. Calls may come from several threads."""

    def phase(self, phase: PushPhase, total: int, done: int) -> None:
        """A phase begins, with `done` of `total` bytes there already (both zero while checking or processing)."""

    def moved(self, size: int) -> None:
        """So many bytes were hashed or sent; negative when a part has to start over."""

    def session(self, upload: Upload) -> None:
        """The session that the parts go to."""

    def source(self, source: PushSource, exposed: Sequence[Exposed]) -> None:
        """What is pushed and what is left out, before anything is sent; and what looks like a key in its text."""


@dataclass(frozen=True, slots=True)
class Pushed:
    model: ExtendedModel
    version: str
    upload: Upload
    """As it was before this push sent its first part."""
    bytes_sent: int
    latest_note: str | None = None
    """Why the version is not the latest, or (without `wait`) would not be as things stand."""


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
    """Pushes what lies at `path` as model `name` (by default the path's own name) and returns it, `ready` if `wait`.

    Interrupt it and call it again, here or on another machine: it goes on where it was, unless `restart` drops what
    earlier pushes of that name left. `make_latest` None: it becomes the latest where it is higher and no pre-release;
    `Pushed.latest_note` says why it did not. `file` names which of several models in it is meant, by its path in there.
    `include` and `exclude` are patterns as `.gitignore` has them: of files to push that would be left out
    (`modelshare.wire.left_out`), and of files to leave out besides. Raises SourceError for what cannot be pushed,
    ModelFailedError with the server's reason, or any other ModelshareError.
    """
    progress = progress or Progress()
    source = read_source(Path(path), include=include, exclude=exclude)
    name = name or source.name
    if name is None:
        raise SourceError(
            f"{Path(path).name!r} is not a valid model name. Use `--name` with letters, digits, `-`, `_` and `.`."
        )
    progress.source(source, find_exposed(source))
    if restart:
        _drop_earlier(client, name)
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
    """Returns when the version is ready; raises ModelFailedError with the reason when the server refused it."""
    interval, reachable_at = 0.1, time.monotonic()
    while True:
        try:
            found = next((item for item in client.models.versions(model_id) if item.version == version), None)
            reachable_at = time.monotonic()
        except (ConnectError, ServerError):
            if time.monotonic() - reachable_at > PATIENCE:
                raise
            found = None
        if found is not None and found.status is ModelStatus.FAILED:
            raise ModelFailedError(
                model_id, found.status_reason or "The server rejected the model without giving a reason."
            )
        if found is not None and found.status in {ModelStatus.READY, ModelStatus.ACTIVE}:
            return found
        time.sleep(interval)
        interval = min(interval * 1.5, LONGEST_POLL)


@dataclass(frozen=True, slots=True)
class _Workers:
    """What the steps of one push share."""

    pool: ThreadPoolExecutor
    jobs: int
    reader: Reader
    progress: Progress

    def all(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        """Does all items, and ends with the first that fails."""
        for done in as_completed([self.pool.submit(work, item) for item in items]):
            done.result()


@contextmanager
def _workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """A thread pool that lets go at once when its block is left by an exception, Ctrl-C included."""
    stop = threading.Event()
    with ThreadPoolExecutor(jobs, thread_name_prefix="push") as pool:
        try:
            yield pool, stop
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _drop_earlier(client: Client, name: str) -> None:
    for upload in list(client.uploads.list(state=UploadState.OPEN, name=name)):
        client.uploads.cancel(upload.id)


def _session(
    opened: Callable[[Mapping[str, str]], Upload], source: PushSource, workers: _Workers
) -> tuple[Upload, dict[str, str]]:
    """The session to fill, and the digests of whole files known by now, by path."""
    digests: dict[str, str] = {}
    if not source.is_archive:
        _hash([file for file in source.files if file.size <= SMALL], digests, workers)
    upload = opened(digests)
    if candidates := worth_hashing(upload, source, digests):
        _hash(candidates, digests, workers)
        upload = opened(digests)  # the server goes on with the same session, and takes over what it stores already
    return upload, digests


def _hash(files: list[LocalFile], digests: dict[str, str], workers: _Workers) -> None:
    workers.progress.phase(PushPhase.HASHING, sum(file.size for file in files), 0)

    def work(file: LocalFile) -> None:
        digests[file.path] = workers.reader.sha256(file, workers.progress.moved)

    workers.all(work, files)


def _changed(upload: Upload, source: PushSource, digests: dict[str, str], workers: _Workers) -> set[tuple[int, int]]:
    """Parts that an earlier push sent of a file that is another one now, as (file, part)."""
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
    """Sends what is missing."""
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
