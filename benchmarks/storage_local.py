"""The folder store against plain tools: taking parts in, sending files whole and by range, hashing.

    python benchmarks/storage_local.py [--mib 1024] [--folder DIR]

Each figure is a ratio to a yardstick of the same run; above 1 is faster than the yardstick. Best of three each.
"""

import argparse
import asyncio
import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from modelshare.server.front.server import Front
from modelshare.server.settings import Settings
from modelshare.server.storage.files import BlobFiles
from modelshare.server.storage.local import FolderStore

MIB = 1 << 20
PART = 64 * MIB
PARALLEL = 4
"""Parts in flight, as the CLI sends them."""
BODY_CHUNK = 256 << 10
"""About what the server hands over of a request's body at once."""


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = folder / "source"
        await asyncio.to_thread(make_file, source, options.mib)
        store = FolderStore(folder / "store", b"secret")
        await benchmark_writes(store, source, folder, options.mib * MIB)
        await benchmark_downloads(store, source, folder, options.mib * MIB)


async def benchmark_writes(store: FolderStore, source: Path, folder: Path, size: int) -> None:

    async def copy_and_hash() -> None:
        await run("cp", str(source), str(folder / "copy"))
        await run("sha256sum", str(folder / "copy"))
        (folder / "copy").unlink()

    async def upload() -> None:
        key = f"bench/{time.time_ns()}"
        begun = await store.begin(key, size, PART)
        room = asyncio.Semaphore(PARALLEL)

        async def send(number: int) -> None:
            async with room:
                await store.write_part(begun, number, chunks(source, *begun.span(number)), None)

        await asyncio.gather(*(send(number) for number in range(begun.count)))
        await store.finish(begun)
        await store.delete(key)

    async def sha256sum() -> None:
        await run("sha256sum", str(source))

    async def digest() -> None:
        await store.digest("bench/digest")

    shutil.copyfile(source, folder / "digested")
    await store.put_file("bench/digest", folder / "digested")
    await compare("write_part, synced and hashed", upload, "cp, sha256sum", copy_and_hash, size)
    await compare("digest", digest, "sha256sum", sha256sum, size)
    await store.delete("bench/digest")


async def benchmark_downloads(store: FolderStore, source: Path, folder: Path, size: int) -> None:
    shutil.copyfile(source, folder / "served")
    await store.put_file("bench/served", folder / "served")
    plain = await asyncio.start_server(lambda _, writer: send_plainly(writer, source), "127.0.0.1", 0)
    plain_url = f"http://127.0.0.1:{plain.sockets[0].getsockname()[1]}/"

    async def read_and_send() -> None:
        await curl(plain_url)

    async def whole() -> None:
        await curl(url)

    async def by_range() -> None:
        await curl(url, "--range", "1-")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        url = store.get_url("bench/served", expires_at=int(time.time()) + 3600, base_url=base_url)
        async with plain, Front(BlobFiles(store), Settings()).serving(listener):
            await compare("GET", whole, "read and send", read_and_send, size)
            await compare("GET of a range", by_range, "read and send", read_and_send, size)
            await compare("GET of a range", by_range, "GET", whole, size)


async def compare(
    name: str, ours: Callable[[], Awaitable[None]], yardstick: str, theirs: Callable[[], Awaitable[None]], size: int
) -> None:
    """Alternates the two, so that both meet the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
        for work, taken in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            await work()
            taken.append(time.perf_counter() - start)
    our_speed, their_speed = (size / MIB / min(taken) for taken in times)
    print(f"{name}: {our_speed:,.0f} MiB/s = {our_speed / their_speed:.2f} x {yardstick} ({their_speed:,.0f} MiB/s)")


async def send_plainly(writer: asyncio.StreamWriter, path: Path) -> None:
    """The least a server can do: read the file, write it to the socket."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
        while chunk := await asyncio.to_thread(file.read, MIB):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def chunks(path: Path, offset: int, size: int) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:
        for start in range(offset, offset + size, BODY_CHUNK):
            yield os.pread(file.fileno(), min(BODY_CHUNK, offset + size - start), start)


async def curl(url: str, *options: str) -> None:
    await run("curl", "-sS", "--fail", "-o", os.devnull, *options, url)


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{command[0]} failed")


def make_file(path: Path, mib: int) -> None:
    """Content that repeats only after 16 MiB and is never zero for long."""
    block = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(16 * MIB // 32))
    with path.open("wb") as file:
        for start in range(0, mib, 16):
            file.write(block[: min(16, mib - start) * MIB])


if __name__ == "__main__":
    asyncio.run(main())
