"""Sends parts of files, with retries and in small slices to save memory."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from itertools import count
from typing import Protocol

import httpx
from pydantic import ValidationError

from modelshare.client.client import Client
from modelshare.client.errors import (
    ApiError,
    ChangedError,
    ConnectError,
    ModelshareError,
    UnexpectedAnswerError,
    parse_retry_after,
)
from modelshare.client.file_reader import Moved, Reader
from modelshare.client.part_urls import PartUrls
from modelshare.client.plan import Part
from modelshare.client.retry import Attempt, Outcome, pause
from modelshare.client.source import LocalFile
from modelshare.client.transport import (
    NoAnswer,
    bucket_client,
    cannot_reach,
    cannot_reach_bucket,
    is_json,
    not_modelshare,
    outcome_of,
    refusal,
)
from modelshare.client.uploads import SmallFile, files_path, part_path
from modelshare.wire.errors import ErrorCode
from modelshare.wire.uploads import DEFERRED, PartDone, Upload

ATTEMPTS = 9
"""For one part. Their growing pauses, 25 seconds in all, are longer than a restart of the server."""


class Hasher(Protocol):
    """A `hashlib` object."""

    def update(self, data: bytes, /) -> None: ...


class PartSender:
    """Sends parts of one session. Thread-safe."""

    def __init__(self, client: Client, upload: Upload, reader: Reader, parts: Iterable[Part]) -> None:
        """`parts`: those that will be sent, about in their order."""
        self._client = client
        self._upload = upload
        self._reader = reader
        self._bucket = bucket_client() if upload.direct else None
        self._urls = PartUrls(client, upload.id, parts)

    def close(self) -> None:
        if self._bucket is not None:
            self._bucket.close()

    def send(self, file: LocalFile, part: Part, digest: str | None, moved: Moved) -> str:
        """Sends one part, with retries; returns the SHA-256 of the received bytes.

        `digest` is the part's SHA-256, if known. Raises ModelshareError if the server permanently rejects the part, and
        StoppedError.
        """

        def attempt(number: int, counted: Moved) -> tuple[str | ModelshareError, Attempt]:
            return self._attempt(lambda hasher: self._put(file, part, digest, counted, hasher), number)

        def check(error: ModelshareError) -> None:
            # Data damaged in transit is worth another try, but a file that has changed would never match.
            if _is_damage(error) and self._reader.sha256(file, _ignore, part) != digest:
                raise ChangedError(file.location)

        return self._send_with_retries(attempt, moved, check)

    def send_files(self, files: Sequence[tuple[LocalFile, Part, str]], moved: Moved) -> None:
        """Sends small files in one request, with retries. Raises the same errors as `send`."""
        size = sum(part.size for _, part, _ in files)

        def attempt(number: int, counted: Moved) -> tuple[str | ModelshareError, Attempt]:
            def put(_: Hasher) -> httpx.Response:
                body = b"".join(self._framed(*each) for each in files)
                headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
                answer = self._client.http.put(files_path(self._upload.id), iter([body]), headers)
                if answer.is_success:
                    counted(size)
                return answer

            return self._attempt(put, number, lambda _: "")

        self._send_with_retries(attempt, moved, _ignore)

    def _framed(self, file: LocalFile, part: Part, digest: str) -> bytes:
        """The file in the format of a batch request."""
        content = b"".join(self._reader.slices(file, part))
        if hashlib.sha256(content).hexdigest() != digest:
            raise ChangedError(file.location)
        return SmallFile(part.n, content).framed()

    def _send_with_retries(
        self,
        attempt: Callable[[int, Moved], tuple[str | ModelshareError, Attempt]],
        moved: Moved,
        check: Callable[[ModelshareError], object],
    ) -> str:
        """Retries until it succeeds. `check` receives the error before each further attempt, and may raise."""
        for number in count(1):
            sent = 0

            def counted(size: int) -> None:
                nonlocal sent
                sent += size
                moved(size)

            received, outcome = attempt(number, counted)
            if isinstance(received, str):
                return received
            moved(-sent)  # the part starts over, so its progress is undone
            wait = pause(outcome, attempts=ATTEMPTS)
            if wait is None:
                raise received
            self._reader.sleep(wait)
            check(received)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(
        self, put: Callable[[Hasher], httpx.Response], number: int, read: Callable[[httpx.Response], str] | None = None
    ) -> tuple[str | ModelshareError, Attempt]:
        """The SHA-256 of the bytes received (or the result of `read`), or the error."""
        hasher = hashlib.sha256()
        try:
            answer = put(hasher)
        except NoAnswer as error:
            refused: ModelshareError = self._unreachable(error)
            return refused, Attempt(number, outcome_of(error), repeatable=True)
        except ConnectError as error:  # could not get the presigned URL
            return error, Attempt(number, Outcome.NOT_SENT, repeatable=True)
        if answer.is_success and self._bucket is None and not is_json(answer):
            return not_modelshare(self._client.config.url), Attempt(number, Outcome.ANSWERED, repeatable=True)
        if answer.is_success:
            if read is not None:
                received = read(answer)
            else:
                received = (
                    hasher.hexdigest() if self._bucket is not None else _received(answer, self._client.config.url)
                )
            return received, Attempt(number, Outcome.ANSWERED, repeatable=True)
        refused = self._refusal(answer)
        outcome = Outcome.BUSY if _may_pass(answer.status_code, refused) else Outcome.ANSWERED
        retry_after = parse_retry_after(answer.headers.get("retry-after"))
        return refused, Attempt(number, outcome, repeatable=True, retry_after=retry_after)

    def _unreachable(self, error: Exception) -> ConnectError:
        if self._bucket is None:
            return cannot_reach(self._client.config.url, error)
        return cannot_reach_bucket(error)

    def _refusal(self, answer: httpx.Response) -> ModelshareError:
        if self._bucket is None:
            return refusal(self._client.config.url, answer, sent=int(answer.request.headers["content-length"]))
        return UnexpectedAnswerError(
            f"The storage bucket refused a part ({answer.status_code} {answer.reason_phrase}). Push again; if "
            "the problem persists, contact the platform's operator."
        )

    def _put(self, file: LocalFile, part: Part, digest: str | None, moved: Moved, hasher: Hasher) -> httpx.Response:
        body = _counted(self._reader.slices(file, part), moved)
        headers = {"Content-Length": str(part.size)}
        if self._bucket is not None:
            target = self._urls.take(part)
            return self._bucket.put(target.url, content=_hashed(body, hasher), headers=headers | target.headers)
        headers |= {"Content-Type": "application/octet-stream", "X-Checksum-SHA256": digest or DEFERRED}
        return self._client.http.put(part_path(self._upload.id, part.n, part.k), body, headers)


def _received(answer: httpx.Response, url: str) -> str:
    """The SHA-256 reported by the server."""
    try:
        return PartDone.model_validate_json(answer.content).sha256
    except ValidationError as error:
        raise UnexpectedAnswerError(
            f"{url} answered a part with an unexpected response. Check that it is a modelshare server of a "
            "matching version."
        ) from error


def _hashed(pieces: Iterator[bytes], hasher: Hasher) -> Iterator[bytes]:
    for piece in pieces:
        hasher.update(piece)
        yield piece


def _counted(pieces: Iterator[bytes], moved: Moved) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        moved(len(piece))


def _may_pass(status: int, error: ModelshareError) -> bool:
    """Whether the same part may be accepted later.

    It may if the server is busy or restarting, or bytes were damaged in transit.
    """
    full = isinstance(error, ApiError) and error.code == ErrorCode.STORAGE_FULL
    return _is_damage(error) or (not full and (status in {408, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR))


def _is_damage(error: ModelshareError) -> bool:
    return isinstance(error, ApiError) and error.code == ErrorCode.CHECKSUM_MISMATCH


def _ignore(_: object) -> None:
    return
