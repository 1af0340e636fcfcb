"""Reads, hashes and sends file parts in slices, so that bytes never gather in memory.

SHA-256 and reading release the interpreter lock, so a few threads use all cores; httpx sends at over 1.2 GiB/s on
loopback, faster than SHA-256 runs, hence nothing more special.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import count

import httpx

from modelshare.client.client import Client
from modelshare.client.errors import (
    ApiError,
    ConnectError,
    ModelshareError,
    SourceError,
    UnexpectedAnswerError,
    from_answer,
    parse_retry_after,
)
from modelshare.client.plan import Part
from modelshare.client.retry import Attempt, Outcome, pause
from modelshare.client.source import LocalFile
from modelshare.client.transport import cannot_reach, outcome_of
from modelshare.client.uploads import part_path
from modelshare.wire.errors import ErrorCode
from modelshare.wire.uploads import Upload

SLICE = 1 << 20
"""Bytes read, hashed or sent at once."""
ATTEMPTS = 9
"""Of one part; with their growing pauses, 25 seconds, they outlast a restart of the server."""
Moved = Callable[[int], None]
"""Hears how many bytes went out; fewer than none when a part starts over."""


class StoppedError(Exception):
    """The push was stopped from elsewhere, such as by Ctrl-C."""


def sha256_of(file: LocalFile, stop: threading.Event, moved: Moved, part: Part | None = None) -> str:
    """Lowercase hex of the file, or of one part of it. Raises SourceError, StoppedError."""
    offset, size = (0, file.size) if part is None else (part.offset, part.size)
    digest = hashlib.sha256()
    for piece in _slices(file, offset, size, stop):
        digest.update(piece)
        moved(len(piece))
    return digest.hexdigest()


class PartSender:
    """Sends parts of one session, from several threads at once."""

    def __init__(self, client: Client, upload: Upload, stop: threading.Event) -> None:
        self._client = client
        self._upload = upload
        self._stop = stop
        self._bucket = httpx.Client(timeout=httpx.Timeout(60, connect=5)) if upload.direct else None
        """Apart from the client's own connections: the bucket must never see the platform's key."""

    def close(self) -> None:
        if self._bucket is not None:
            self._bucket.close()

    def send(self, file: LocalFile, part: Part, digest: str | None, moved: Moved) -> None:
        """Sends one part until the server has it. `digest` is the part's SHA-256 where known.

        Raises ModelshareError when the server refuses it for good, StoppedError.
        """
        digest = digest or sha256_of(file, self._stop, _ignore, part)
        for number in count(1):
            sent = 0

            def counted(size: int) -> None:
                nonlocal sent
                sent += size
                moved(size)

            error, attempt = self._attempt(file, part, digest, counted, number)
            if error is None:
                return
            moved(-sent)
            wait = pause(attempt, attempts=ATTEMPTS)
            if wait is None:
                raise error
            if self._stop.wait(wait):
                raise StoppedError

    def _attempt(
        self, file: LocalFile, part: Part, digest: str, moved: Moved, number: int
    ) -> tuple[ModelshareError | None, Attempt]:
        """None when the part is there, else what went wrong."""
        try:
            answer = self._put(file, part, digest, moved)
        except httpx.TransportError as error:
            refused: ModelshareError = cannot_reach(self._client.config.url, error)
            return refused, Attempt(number, outcome_of(error), repeatable=True)
        except ConnectError as error:  # no presigned URL yet
            return error, Attempt(number, Outcome.NOT_SENT, repeatable=True)
        if answer.is_success:
            return None, Attempt(number, Outcome.ANSWERED, repeatable=True)
        refused = self._refusal(answer)
        outcome = Outcome.BUSY if _may_pass(answer.status_code, refused) else Outcome.ANSWERED
        retry_after = parse_retry_after(answer.headers.get("retry-after"))
        return refused, Attempt(number, outcome, repeatable=True, retry_after=retry_after)

    def _refusal(self, answer: httpx.Response) -> ModelshareError:
        if self._bucket is None:
            return from_answer(answer.status_code, answer.headers, answer.content)
        return UnexpectedAnswerError(
            f"The storage bucket refused a part ({answer.status_code} {answer.reason_phrase}). Push again; if it stays "
            "so, tell the platform's operator."
        )

    def _put(self, file: LocalFile, part: Part, digest: str, moved: Moved) -> httpx.Response:
        body = _counted(_slices(file, part.offset, part.size, self._stop), moved)
        headers = {"Content-Length": str(part.size)}
        if self._bucket is not None:
            target = self._client.uploads.part_url(self._upload.id, part.n, part.k)
            return self._bucket.put(target.url, content=body, headers=headers | target.headers)
        headers |= {"Content-Type": "application/octet-stream", "X-Checksum-SHA256": digest}
        return self._client.http.put(part_path(self._upload.id, part.n, part.k), body, headers)


def _slices(file: LocalFile, offset: int, size: int, stop: threading.Event) -> Iterator[bytes]:
    try:
        with file.location.open("rb", buffering=0) as source:
            source.seek(offset)
            while size:
                if stop.is_set():
                    raise StoppedError
                piece = source.read(min(SLICE, size))
                if not piece:
                    raise SourceError(f"{file.location} changed while it was being pushed. Push again when it is done.")
                size -= len(piece)
                yield piece
    except OSError as error:
        raise SourceError(f"Cannot read {file.location}: {error.strerror}.") from error


def _counted(pieces: Iterator[bytes], moved: Moved) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        moved(len(piece))


def _may_pass(status: int, error: ModelshareError) -> bool:
    """Whether the same part may be accepted later: a busy or restarting server, bytes damaged on the way."""
    full = isinstance(error, ApiError) and error.code == ErrorCode.STORAGE_FULL
    damaged = isinstance(error, ApiError) and error.code == ErrorCode.CHECKSUM_MISMATCH
    return damaged or (not full and (status in {408, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR))


def _ignore(_: int) -> None:
    return
