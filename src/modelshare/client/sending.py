"""Sends the missing parts of an upload, and verifies that the server received a consistent copy of each file.

A file is read completely in order to send it. After its last part has arrived, it is read again completely and compared
with what the server received. If both readings agree, the file had exactly these contents between them. Comparing part
by part while sending could not guarantee this, since an earlier part may change while a later one is sent. A
single-part file that was hashed before needs no second reading: the server rejects other bytes. The digests are sent
with `complete`, so that the server publishes exactly what was compared, even if another push fills the same upload.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from modelshare.client.client import Client
from modelshare.client.errors import ChangedError
from modelshare.client.file_reader import Reader
from modelshare.client.parts import PartSender
from modelshare.client.plan import TINY, Part, all_parts, batches, missing_parts
from modelshare.client.source import LocalFile, PushSource
from modelshare.wire.uploads import FileDigest, Upload, UploadFile, digest_of_parts

Step = Callable[[], Iterable["Step"]]
"""Does its work and returns the steps to do next."""
PartId = tuple[int, int]
"""Number of the file, number of the part."""


@dataclass(frozen=True, slots=True)
class Sent:
    size: int
    """Bytes."""
    digests: list[FileDigest]


class Sending:
    """Sends the parts of one push from several threads."""

    def __init__(
        self,
        client: Client,
        upload: Upload,
        source: PushSource,
        digests: Mapping[str, str],
        reader: Reader,
        moved: Callable[[int], None],
        all_sent: Callable[[], None],
    ) -> None:
        """`digests`: SHA-256 of whole files that were hashed for this push, by path.

        `all_sent` is called when everything has been sent and the comparison begins.
        """
        self._client = client
        self._upload = upload
        self._files = {file.path: file for file in source.files}
        self._digests = digests
        self._reader = reader
        self._moved = moved
        self._all_sent = all_sent
        self._received: dict[PartId, str] = {
            (file.n, k): digest for file in upload.files for k, digest in file.parts_sha256.items()
        }
        """SHA-256 of each part as the server received it."""
        self._whole: dict[int, FileDigest] = {}
        """Of whole files, read after they were sent, by file number."""
        self._unsent: Counter[int] = Counter()
        self._lock = threading.Lock()

    def run(self, changed: set[PartId], pool: ThreadPoolExecutor, jobs: int) -> Sent:
        """Sends and compares. `changed`: parts that the server has but that must be sent again.

        Raises ChangedError, or the error for the server's response.
        """
        missing = list(missing_parts(self._upload, changed))
        self._sender = PartSender(self._client, self._upload, self._reader, [part for _, part in missing])
        self._unsent.update(part.n for _, part in missing)
        sent_whole = {part.n for path, part in missing if part.size == self._files[path].size and path in self._digests}
        self._compared = {
            file.n: file for file in self._upload.files if not file.reused and file.parts and file.n not in sent_whole
        }
        tiny = [(path, part) for path, part in missing if part.n in sent_whole and self._is_tiny(part)]
        batched = {part.n for _, part in tiny}
        steps = [self._send_files_step(batch) for batch in batches(tiny)]
        steps += [self._send_step(path, part) for path, part in missing if part.n not in batched]
        steps += [step for n in self._compared if not self._unsent[n] for step in self._compare_steps(n)]
        try:
            queue = _StepQueue(steps)
            for done in as_completed([pool.submit(queue.work) for _ in range(jobs)]):
                done.result()
        finally:
            self._sender.close()
        for file in self._files.values():
            self._reader.require_unchanged(file)
        return Sent(sum(part.size for _, part in missing), [*filter(None, map(self._digest, self._upload.files))])

    def _is_tiny(self, part: Part) -> bool:
        return not self._upload.direct and 0 < part.size <= TINY

    def _send_files_step(self, batch: Sequence[tuple[str, Part]]) -> Step:
        files = [(self._files[path], part, self._digests[path]) for path, part in batch]

        def send() -> Iterable[Step]:
            self._sender.send_files(files, self._moved)
            with self._lock:
                for _, part, digest in files:
                    self._received[part.n, 0] = digest
                    self._unsent[part.n] -= 1
            return ()

        return send

    def _send_step(self, path: str, part: Part) -> Step:
        file = self._files[path]
        known = self._digests.get(path) if part.size == file.size else None

        def send() -> Iterable[Step]:
            received = self._sender.send(file, part, known, self._moved)
            with self._lock:
                self._received[part.n, part.k] = received
                self._unsent[part.n] -= 1
                was_last = not self._unsent[part.n]
                was_last_of_all = not self._unsent.total()
            following = self._compare_steps(part.n) if was_last and part.n in self._compared else ()
            if was_last_of_all and following:
                self._all_sent()
            return following

        return send

    def _compare_steps(self, n: int) -> list[Step]:
        described = self._compared[n]
        file, parts = self._files[described.path], list(all_parts(self._upload, described))
        if self._upload.direct:
            return [lambda: self._compare_whole(file, parts)]
        return [self._compare_step(file, part) for part in parts]

    def _compare_step(self, file: LocalFile, part: Part) -> Step:
        def compare() -> Iterable[Step]:
            if self._reader.sha256(file, _ignore, part) != self._received[part.n, part.k]:
                raise ChangedError(file.location)
            return ()

        return compare

    def _compare_whole(self, file: LocalFile, parts: list[Part]) -> Iterable[Step]:
        """Hashes the whole file, for the server to compare, since a bucket does not report what it received."""
        found = self._reader.digests(file, parts)
        for part, digest in zip(parts, found.of_parts, strict=True):
            if self._received.get((part.n, part.k), digest) != digest:
                raise ChangedError(file.location)
        n = parts[0].n
        self._whole[n] = FileDigest(n=n, sha256=found.sha256, parts_md5=found.parts_md5)
        return ()

    def _digest(self, file: UploadFile) -> FileDigest | None:
        if file.reused or not file.parts:
            return None
        if file.n in self._whole:
            return self._whole[file.n]
        if file.parts == 1:
            return FileDigest(n=file.n, sha256=self._received[file.n, 0])
        return FileDigest(n=file.n, parts_sha256=digest_of_parts(self._received[file.n, k] for k in range(file.parts)))


class _StepQueue:
    """A queue of steps for several threads.

    Follow-up steps run first, while their bytes are still in the page cache.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._waiting = deque(steps)
        self._running = 0
        self._changed = threading.Condition()

    def work(self) -> None:
        """Runs steps until none is left or running, since a running step may add others."""
        while (step := self._next()) is not None:
            following: Iterable[Step] = ()
            try:
                following = step()
            except BaseException:
                self.drop()
                raise
            finally:
                with self._changed:
                    self._waiting.extendleft(following)
                    self._running -= 1
                    self._changed.notify_all()

    def drop(self) -> None:
        """Discards the remaining steps; called when one failed."""
        with self._changed:
            self._waiting.clear()

    def _next(self) -> Step | None:
        with self._changed:
            while self._running and not self._waiting:
                self._changed.wait()
            if not self._waiting:
                return None
            self._running += 1
            return self._waiting.popleft()


def _ignore(_: int) -> None:
    return
