"""Reads from a source over HTTP. It is a stranger's server: addresses, redirects, sizes and times have bounds."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec

from modelshare.server.outgoing import aiohttp_module, connection_errors, exact_url, open_session, why_no_answer
from modelshare.server.public_addresses import public_socket, url_refusal
from modelshare.server.registry.refused import printable
from modelshare.server.settings import Settings

if TYPE_CHECKING:
    from aiohttp import ClientResponse

Answer = TypeVar("Answer")

LIMITS: Final = "Imports use https and public addresses only, unless the operator sets `import_allow_private`."
_EXAMPLE: Final = "https://hub.example.org"
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 60.0
"""Between two pieces of an answer."""
_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LATER: Final = frozenset({408, 425, 429})
_MAX_WAIT: Final = 3600
"""Seconds. A source that asks for more is asked again after this."""
_PIECE: Final = 1 << 20
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_PORTS: Final = {"http": 80, "https": 443}


def allows_private(settings: Settings, url: str) -> bool:
    """Whether http and private addresses are allowed there: everywhere by the setting, or on the operator's own Hub."""
    return settings.import_allow_private or _origin(url) == _origin(settings.import_hf_endpoint)


class SourceError(Exception):
    """The import cannot succeed; the message says why, and what to do."""


class SourceRefusedError(SourceError):
    """The source itself answered 401, 403 or 404."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"It answered {status}.")
        self.status = status
        self.headers = headers


class SourceAwayError(Exception):
    """The source may answer later; the message completes "Waiting: …"."""

    def __init__(self, message: str, after: int | None = None) -> None:
        super().__init__(message)
        self.answered = after is not None
        """Whether it said itself that it cannot answer now."""
        self.after = after or 0
        """Seconds that it asked to wait."""


class ShortAnswerError(SourceAwayError):
    """The answer ended too early, but in order."""


Challenge = Callable[[str], Awaitable[str]]
"""Returns the `Authorization` for a `WWW-Authenticate` header."""


class SourceClient:
    """Sends requests to one source. Its credential goes to no other origin, but for a token service that is allowed."""

    def __init__(
        self,
        endpoint: str,
        *,
        allows_private: Callable[[str], bool],
        authorization: str | None,
        now: Callable[[], float],
        token_host: str | None = None,
    ) -> None:
        """`allows_private`: see `allows_private`, for a URL. `token_host`: see `ImportCreate`."""
        self.host = urlsplit(endpoint).netloc
        self._origin = _origin(endpoint)
        self._allows_private = allows_private
        self._authorization = authorization
        self._now = now
        self._token_host = token_host
        self.challenge: Challenge | None = None
        self._sessions: dict[bool, Any] = {}

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def owns(self, url: str) -> bool:
        """Whether the credential may be sent there."""
        return _origin(url) == self._origin

    def may_ask_for_token(self, realm: str) -> bool:
        """Whether a credential may be sent there for a token: over https, unless the source itself is asked without."""
        parts = urlsplit(realm)
        is_allowed = self._token_host is not None and parts.netloc.lower() == self._token_host.lower()
        return self.owns(realm) or (is_allowed and parts.scheme in {"https", self._origin[0]})

    async def read(
        self,
        url: str,
        kind: type[Answer],
        *,
        limit: int,
        accept: str = "application/json",
        authorization: str | None = None,
    ) -> tuple[Answer, bytes, Mapping[str, str]]:
        """An answer as JSON of this type, its bytes, and its headers. `authorization`: instead of the usual one;
        empty for none."""
        content = bytearray()
        async with self._get(url, {"Accept": accept}, authorization) as answer:
            if answer.status != 200:  # noqa: PLR2004 - OK
                raise SourceError(f"`{self.host}` answered {answer.status} where a list of files was expected.")
            _refuse_compressed(answer)
            async for piece in self._pieces(answer):
                content += piece
                if len(content) > limit:
                    raise SourceError(f"An answer of `{self.host}` has more than {limit:,} bytes, the maximum.")
        try:
            found = await asyncio.to_thread(msgspec.json.decode, content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SourceError(f"`{self.host}` sent an unexpected answer: {printable(str(error))}.") from error
        return found, bytes(content), answer.headers

    async def content(self, url: str, path: str, start: int, end: int, size: int) -> AsyncGenerator[bytes, None]:
        """Bytes [start, end) of a file of `size` bytes. Raises SourceError if the source has another size."""
        is_whole = (start, end) == (0, size)
        async with self._get(url, {} if is_whole else {"Range": f"bytes={start}-{end - 1}"}) as answer:
            _refuse_compressed(answer)
            skip, left = self._skip(answer, path, start, size), end - start
            may_be_longer = answer.status == 200 and end != size  # noqa: PLR2004 - OK: the whole file
            async for received in self._pieces(answer):
                piece = received[skip:]
                skip -= len(received) - len(piece)
                if len(piece) > left and not may_be_longer:
                    raise _wrong_size(self.host, path, size, "more")
                piece = piece[:left]
                left -= len(piece)
                if piece:
                    yield piece
                if left == 0 and may_be_longer:
                    return
            if left:
                raise ShortAnswerError(f"`{self.host}` sent fewer bytes of {printable(path)} than it lists")

    def _skip(self, answer: "ClientResponse", path: str, start: int, size: int) -> int:
        """How many bytes come before those that were asked for."""
        if answer.status == 416:  # noqa: PLR2004 - range not satisfiable
            raise _wrong_size(self.host, path, size, "fewer")
        if answer.status == 206:  # noqa: PLR2004 - partial content
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise SourceError(f"`{self.host}` sent another range of {printable(path)} than it was asked for.")
            if found[3] not in {"*", str(size)}:
                raise _wrong_size(self.host, path, size, "more" if int(found[3]) > size else "fewer")
            return 0
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise SourceError(f"`{self.host}` answered {answer.status} for {printable(path)}.")
        if answer.content_length is not None and answer.content_length != size:
            raise _wrong_size(self.host, path, size, "more" if answer.content_length > size else "fewer")
        return start

    @asynccontextmanager
    async def _get(
        self, url: str, headers: Mapping[str, str], authorization: str | None = None
    ) -> AsyncIterator["ClientResponse"]:
        """The final answer, after redirects."""
        challenge = self.challenge if authorization is None else None
        for _ in range(_MAX_REDIRECTS + 2):
            answer = await self._send(url, headers, authorization)
            try:
                if answer.status in _REDIRECTS:
                    url = urljoin(url, answer.headers.get("Location", ""))
                    continue
                if answer.status == 401 and challenge is not None and self.owns(url):  # noqa: PLR2004 - unauthorized
                    self._authorization = await challenge(answer.headers.get("WWW-Authenticate", ""))
                    challenge = None
                    continue
                self._check_status(url, answer)
                yield answer
                return
            finally:
                answer.close()
        raise SourceError(f"`{self.host}` redirects too often.")

    async def _send(self, url: str, headers: Mapping[str, str], authorization: str | None) -> "ClientResponse":
        """Raises SourceError for an address that must not be reached."""
        may_be_private = self._allows_private(url)
        refusal = url_refusal(url, allow_private=may_be_private, example=_EXAMPLE, limits=LIMITS)
        if refusal is not None:
            prefix = "" if self.owns(url) else f"`{self.host}` redirects to an address that is not allowed. "
            raise SourceError(f"{prefix}{refusal}")
        sent = {"Accept-Encoding": "identity", **headers}
        if authorization is None:
            credential, is_for_it = self._authorization, self.owns(url)
        else:
            credential, is_for_it = authorization, self.may_ask_for_token(url)
        if credential and is_for_it:
            sent["Authorization"] = credential
        try:
            answer: ClientResponse = await self._session(may_be_private).get(
                exact_url(url), headers=sent, allow_redirects=False
            )
        except connection_errors() as error:
            raise self._no_answer(url, error) from error
        return answer

    def _session(self, may_be_private: bool) -> Any:
        if may_be_private not in self._sessions:
            timeout = {"total": None, "sock_connect": _CONNECT_SECONDS, "sock_read": _READ_SECONDS}
            self._sessions[may_be_private] = open_session(
                {"socket_factory": None if may_be_private else public_socket},
                timeout=aiohttp_module().ClientTimeout(**timeout),
                headers={"User-Agent": "modelshare-import"},
            )
        return self._sessions[may_be_private]

    async def _pieces(self, answer: "ClientResponse") -> AsyncIterator[bytes]:
        try:
            async for piece in answer.content.iter_chunked(_PIECE):
                yield piece
        except connection_errors() as error:
            raise SourceAwayError(f"`{self.host}` broke off an answer") from error

    def _no_answer(self, url: str, error: Exception) -> Exception:
        host = urlsplit(url).hostname or ""
        said = why_no_answer(host, error, seconds=_READ_SECONDS, limits=LIMITS)
        is_final = isinstance(error, aiohttp_module().ClientSSLError) or LIMITS in said
        return SourceError(said) if is_final else SourceAwayError(said.rstrip("."))

    def _check_status(self, url: str, answer: "ClientResponse") -> None:
        status, own = answer.status, self.may_ask_for_token(url)
        if status >= 500 or status in _LATER or (status in {401, 403, 404} and not own):  # noqa: PLR2004 - server errors
            host = self.host if own else urlsplit(url).netloc
            asked = answer.headers.get("Retry-After")
            says_when = asked is not None or status == 429  # noqa: PLR2004 - too many requests
            raise SourceAwayError(f"`{host}` answered {status}", self._wait(asked or "") if says_when else None)
        if status in {401, 403, 404}:
            raise SourceRefusedError(status, answer.headers)

    def _wait(self, asked: str) -> int:
        """Seconds, by a Retry-After header: a number or a date."""
        seconds = 0.0
        if asked.isascii() and asked.isdigit():
            seconds = int(asked[:9])
        elif asked:
            try:
                seconds = parsedate_to_datetime(asked).timestamp() - self._now()
            except (ValueError, OverflowError):
                seconds = 0
        return round(max(0.0, min(seconds, _MAX_WAIT)))


def _refuse_compressed(answer: "ClientResponse") -> None:
    """It was not asked for, and would have no bound."""
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise SourceError("The source sends compressed answers although uncompressed ones were asked for.")


def _wrong_size(host: str, path: str, size: int, more: str) -> SourceError:
    return SourceError(
        f"`{host}` lists {printable(path)} with {size:,} bytes but sends {more}. Try again later, or ask who runs it."
    )


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or _PORTS.get(parts.scheme)
