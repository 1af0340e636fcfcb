"""Fake middleboxes between a client and a platform: real sockets that behave like proxies, portals and broken links."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "certificates"
"""Issued by an untrusted authority; valid until 2120, except `expired`."""
AUTHORITY = CERTIFICATES / "authority.pem"

Answer = Callable[[bytes, int], bytes | None]
"""Returns the response for a request's head and the connection's number (from 1); None closes the connection."""


def http(status: str, body: str = "<html><h1>No</h1></html>", **headers: str) -> bytes:
    """An HTML response, as from a program other than the platform."""
    fields = {"Content-Type": "text/html", "Content-Length": str(len(body)), "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n{body}".encode()


class Box:
    """A listening port on this machine."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port = port
        self.requests = requests
        """The heads of received requests, in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def box(answer: bytes | Answer, *, certificate: str | None = None, drain: bool = True) -> Iterator[Box]:
    """Responds once to each connection, with TLS if a certificate is given. `drain`: read the request body first."""
    requests: list[bytes] = []
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / f"{certificate}.pem")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), self._line() as line:
                head = _head(line, drain=drain)
                if not head:
                    return
                requests.append(head)
                said = answer if isinstance(answer, bytes) else answer(head, len(requests))
                if said:
                    line.sendall(said)
                _let_go(line, gently=said is not None)

        def _line(self) -> socket.socket:
            line: socket.socket = self.request
            return context.wrap_socket(line, server_side=True) if context else line

    with _serving(Handler) as port:
        yield Box(port, requests)


@contextmanager
def forwarding(*, socks: bool = False, to: int | None = None) -> Iterator[Box]:
    """A working proxy, HTTP or SOCKS. An HTTP proxy connects to the requested port, or to the port `to`."""
    requests: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                port, first = _socks_target(self.request) if socks else _http_target(self.request)
                requests.append(first)
                with socket.create_connection(("127.0.0.1", to or port), timeout=20) as onward:
                    if not socks and not first.startswith(b"CONNECT"):
                        onward.sendall(first)
                    elif not socks:
                        self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    back = threading.Thread(target=_copy, args=(onward, self.request), daemon=True)
                    back.start()
                    _copy(self.request, onward)
                    back.join(20)

    with _serving(Handler) as port:
        yield Box(port, requests)


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


@contextmanager
def _serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _head(line: socket.socket, *, drain: bool) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = line.recv(65536)
        if not piece:
            return data
        data += piece
        if not data[:1].isalpha():  # not HTTP, but for example a TLS handshake
            return data
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(each.split(b":")[1]) for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:")), 0
    )
    while drain and len(body) < length:
        piece = line.recv(65536)
        if not piece:
            break
        body += piece
    return head + b"\r\n\r\n" + body


def _let_go(line: socket.socket, *, gently: bool) -> None:
    """Closes the connection, with a reset if not `gently`."""
    if not gently:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.close()
        return
    line.shutdown(socket.SHUT_WR)
    line.settimeout(5)
    while line.recv(65536):
        pass


def _http_target(line: socket.socket) -> tuple[int, bytes]:
    head = _head(line, drain=False)
    target = head.split(b" ")[1].removeprefix(b"http://").split(b"/")[0]
    return int(target.rpartition(b":")[2] or 80), head


def _socks_target(line: socket.socket) -> tuple[int, bytes]:
    """SOCKS5 handshake (RFC 1928) without authentication."""
    line.recv(2 + 255)
    line.sendall(b"\x05\x00")
    request = line.recv(4 + 256 + 2)
    line.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
    return int.from_bytes(request[-2:], "big"), request


def _copy(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)
