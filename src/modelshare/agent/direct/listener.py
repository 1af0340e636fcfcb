"""Serves ranges of files to other agents that show a link signed for exactly that file, reader and time.

Anybody may connect. Until the first valid link, a connection is a stranger's: their number and time are limited, and a
new one displaces the oldest of the address that has most. Whatever is not a valid link gets the same answer.
"""

import asyncio
import datetime as dt
import hashlib
import logging
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelshare import private_files
from modelshare.agent.direct.files import RefusedError, ServedFile, ServedFiles
from modelshare.agent.direct.options import Address, DirectOptions
from modelshare.agent.errors import StopError
from modelshare.wire import direct
from modelshare.wire.link import Direct

_log = logging.getLogger(__name__)

_STRANGERS: Final = 64
_SITE_6: Final = 64
_STRANGER_SECONDS: Final = 10.0
_READERS: Final = 256
_OF_ONE_READER: Final = 32
"""Connections."""
_IDLE_SECONDS: Final = 30.0
_WRITE_SECONDS: Final = 30.0
"""How long a reader may take no bytes."""
_LONGEST_HEAD: Final = 8 << 10
_WRITE_BUFFER: Final = 256 << 10
_ACCEPT_SECONDS: Final = 1.0
_VALID_DAYS: Final = 3650
_REQUEST_LINE: Final = re.compile(r"GET ([!-~]{1,500}) HTTP/1\.1\r\n")
_RANGE: Final = re.compile(r"\r\nrange: *bytes=([0-9]{1,16})-([0-9]{1,16}) *\r\n", re.IGNORECASE)
_HAS_BODY: Final = re.compile(r"\r\n(?:content-length|transfer-encoding|expect|upgrade) *:", re.IGNORECASE)
_NOT_FOUND: Final = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class _Request:
    link: direct.Link
    start: int
    end: int | None


class Listener:
    """Call `start`, and `close` at the end."""

    def __init__(self, files: ServedFiles, key: Callable[[], str], *, clock: Callable[[], float] = time.time) -> None:
        """`key` returns the key that signs links to this agent's files; empty: none are valid yet."""
        self._files = files
        self._key = key
        self._clock = clock
        self._fingerprint = ""
        self._socket: socket.socket | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.Task[None], str] = {}
        """Where they come from, the oldest first."""
        self._of_readers: Counter[str] = Counter()

    def start(self, options: DirectOptions, data_dir: Path) -> None:
        """Listens, if the operator allows it, with a new certificate. Raises StopError if the address cannot be
        used."""
        address = options.listen or options.announced
        if address is None:
            return
        self._fingerprint = _certify(self._context, data_dir)
        try:
            family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
            self._socket = socket.create_server(where[:2], family=family)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (")[0]
            raise StopError(
                f"Cannot listen on {address}: {reason}. Choose another address or port. If others reach this machine "
                "at an address that is not its own, give its own with --listen."
            ) from error
        self._socket.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(self._socket))
        _log.info("Other agents can fetch files at %s.", self._address(options))

    def announced(self, options: DirectOptions) -> Direct | None:
        """For the server. None if it does not listen."""
        address = self._address(options)
        if address is None:
            return None
        return Direct(str(address), self._fingerprint, [str(network) for network in options.allowed])

    def _address(self, options: DirectOptions) -> Address | None:
        if self._socket is None or options.announced is None:
            return None
        return options.announced._replace(port=options.announced.port or self._socket.getsockname()[1])

    async def close(self) -> None:
        tasks = [*self._connections, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # such as no file descriptor left
                _log.warning("Cannot accept a connection: %s", error)
                await asyncio.sleep(_ACCEPT_SECONDS)
                continue
            if len(self._strangers) >= _STRANGERS:
                self._displace()
            task = asyncio.create_task(self._serve(connection))
            self._connections.add(task)
            self._strangers[task] = place_of(address[0])
            task.add_done_callback(partial(self._ended, connection))

    def _displace(self) -> None:
        [(busiest, _)] = Counter(self._strangers.values()).most_common(1)
        oldest = next(task for task, address in self._strangers.items() if address == busiest)
        del self._strangers[oldest]
        oldest.cancel()

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        connection.close()
        self._connections.discard(task)
        self._strangers.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("Internal error while a file was served.", exc_info=error)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LONGEST_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(_STRANGER_SECONDS):
                transport = await self._secured(connection, protocol)
                transport.set_write_buffer_limits(_WRITE_BUFFER)
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                request = await self._request(reader)
            if request is None:
                await _end(writer, _NOT_FOUND)
            else:
                await self._serve_known(reader, writer, request)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):  # OSError includes those of TLS
            pass
        finally:
            if transport is not None:
                transport.abort()

    async def _secured(self, connection: socket.socket, protocol: asyncio.StreamReaderProtocol) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        securing = asyncio.create_task(loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._context))
        try:
            return (await asyncio.shield(securing))[0]
        except asyncio.CancelledError:
            # Cancelled at its beginning, it would leave the connection open: let it fail instead.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            await asyncio.wait([securing])
            if securing.exception() is None:
                securing.result()[0].abort()
            raise

    async def _serve_known(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: _Request | None
    ) -> None:
        assert request is not None  # noqa: S101 - the first one was valid
        who = request.link.reader
        task = asyncio.current_task()
        if task is not None:
            self._strangers.pop(task, None)
        if self._of_readers[who] >= _OF_ONE_READER or self._of_readers.total() >= _READERS:
            await self._refuse(writer, RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections.", 1))
            return
        self._of_readers[who] += 1
        try:
            while request is not None and request.link.reader == who:
                await self._answer(writer, request)
                async with asyncio.timeout(_IDLE_SECONDS):
                    request = await self._request(reader)
            await _end(writer, _NOT_FOUND)
        finally:
            self._of_readers[who] -= 1
            self._of_readers += Counter()  # drops zeros

    async def _request(self, reader: asyncio.StreamReader) -> _Request | None:
        """The next request, or None if it is not a valid one. Raises EOFError."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line = _REQUEST_LINE.match(head)
        link = direct.check(self._key(), line[1], self._clock()) if line is not None else None
        if link is None or _HAS_BODY.search(head):
            return None
        wanted = _RANGE.search(head)
        start, end = (int(wanted[1]), int(wanted[2]) + 1) if wanted is not None else (0, None)
        return _Request(link, start, end)

    async def _answer(self, writer: asyncio.StreamWriter, request: _Request) -> None:
        try:
            file = await self._files.open(request.link.sha256)
        except RefusedError as refused:
            await self._refuse(writer, refused)
            return
        try:
            await self._send(writer, file, request)
        finally:
            file.close()

    async def _send(self, writer: asyncio.StreamWriter, file: ServedFile, request: _Request) -> None:
        at, size = request.start, file.size
        end = size if request.end is None else min(request.end, size)
        if at >= end:
            await self._refuse(writer, RefusedError(HTTPStatus.NOT_FOUND, "The file is shorter than that."))
            return
        end = await file.readable_to(at, end)
        if at >= end:
            refused = RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "This agent does not have these bytes yet.", 1)
            await self._refuse(writer, refused)
            return
        fields = f"Content-Length: {end - at}\r\nContent-Range: bytes {at}-{end - 1}/{size}"
        await _write(writer, f"HTTP/1.1 206 Partial Content\r\n{fields}\r\n\r\n".encode())
        while at < end:
            if self._clock() >= request.link.expires_at:  # it may have been revoked
                raise ConnectionAbortedError
            try:
                data = await file.read(at, end - at)
            except RefusedError as refused:  # too late for an answer: the connection ends
                raise ConnectionAbortedError(str(refused)) from refused
            await _write(writer, data)
            at += len(data)

    async def _refuse(self, writer: asyncio.StreamWriter, refused: RefusedError) -> None:
        body = refused.body()
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        if refused.retry_after is not None:
            fields += f"\r\nRetry-After: {refused.retry_after}"
        head = f"HTTP/1.1 {refused.status.value} {refused.status.phrase}\r\n{fields}\r\n\r\n"
        await _write(writer, head.encode() + body)


def place_of(address: str) -> str:
    """The address, or with IPv6 its /64 network: a single client may have all addresses of one."""
    return str(ip_network((address.partition("%")[0], _SITE_6), strict=False)) if ":" in address else address


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(_WRITE_SECONDS):
        await writer.drain()


async def _end(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    writer.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


def _certify(context: ssl.SSLContext, data_dir: Path) -> str:
    """Makes a certificate for the context; returns its fingerprint, which is all that readers look at."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelshare agent")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = data_dir / "direct.pem"
    private_files.replace(path, private + certificate.public_bytes(pem))
    try:
        context.load_cert_chain(path)
    finally:
        path.unlink()
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
