"""A stranger with very many connections: `flood_child.py HOST PORT COUNT`. Prints `open` once it has opened them all.

A third is silent, a third sends half a head, a third half a body; what is closed on it, it opens anew, until it is
ended.
"""

import asyncio
import resource
import sys

HALVES = (
    b"",
    b"GET /v1/catalog/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    b"POST /v1/enroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
)


class Stranger(asyncio.Protocol):
    def __init__(self, half: bytes, opened: asyncio.Semaphore) -> None:
        self.half = half
        self.opened = opened
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.half)
        self.opened.release()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def main(host: str, port: int, count: int) -> None:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    opened = asyncio.Semaphore(0)

    async def stay(half: bytes) -> None:
        while True:
            try:
                _, stranger = await asyncio.get_running_loop().create_connection(
                    lambda: Stranger(half, opened), host, port
                )
                await stranger.lost
            except OSError:
                pass
            await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(stay(HALVES[number % 3])) for number in range(count)]
    for _ in range(count):
        await opened.acquire()
    print("open", flush=True)  # noqa: T201 - read by the test
    await asyncio.gather(*tasks)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
