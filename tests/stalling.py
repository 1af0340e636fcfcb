"""A TCP proxy that stops forwarding after a number of bytes, to interrupt a sender at a defined point."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


@contextlib.contextmanager
def stalling_after(url: str, sent: int) -> Iterator[str]:
    """The URL of a proxy for the server at `url`, which forwards `sent` bytes towards it and then stalls.

    Responses are forwarded without a limit. Once the server has refused a connection, no more are accepted. All are
    closed at the end of the block.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    there = parts.hostname, parts.port
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    left = sent
    lock = threading.Lock()
    sockets: list[socket.socket] = [listener]

    def may_pass(size: int) -> bool:
        nonlocal left
        with lock:
            left -= size
            return left >= 0

    def towards(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if not may_pass(len(data)):
                    over.wait()
                    return
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def back(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                client, _ = listener.accept()
                sockets.append(client)
                server = socket.create_connection(there)
                sockets.append(server)
                threading.Thread(target=towards, args=(client, server), daemon=True).start()
                threading.Thread(target=back, args=(server, client), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        accepting.join()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
