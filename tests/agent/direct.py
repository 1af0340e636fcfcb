"""Agents of one network in this process: their caches, pulls and listeners, and grants by the server's own rules."""

import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Self

import aiohttp

from agent.support import Storage
from modelshare.agent.cache import Cache
from modelshare.agent.direct.files import CachedFiles, ServedFile, ServedFiles
from modelshare.agent.direct.listener import Listener
from modelshare.agent.direct.options import Address, DirectOptions
from modelshare.agent.direct.sources import DirectReader
from modelshare.agent.pull import Puller
from modelshare.server.fleet import rules
from modelshare.wire import direct
from modelshare.wire.agents import DirectSource, Grant, Phase
from modelshare.wire.link import DeploymentFile, Direct

LOOPBACK = DirectOptions(Address("127.0.0.1", 0), None, (ip_network("127.0.0.0/8"),))
EXPIRES = 2_000_000_000


@dataclass
class Bytes:
    """A `ServedFile` of a file in memory."""

    data: bytes
    reads: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    async def readable_to(self, at: int, end: int) -> int:
        return end

    async def read(self, at: int, most: int) -> bytes:
        self.reads.append(at)
        return self.data[at : at + min(most, 1 << 18)]

    def close(self) -> None:
        pass


@dataclass
class InMemory:
    """`ServedFiles`."""

    files: dict[str, bytes]
    opened: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, storage: Storage, change: Callable[[bytes], bytes] = bytes) -> Self:
        return cls({hashlib.sha256(data).hexdigest(): change(data) for data in storage.files.values()})

    async def open(self, sha256: str) -> ServedFile:
        self.opened.append(sha256)
        return Bytes(self.files[sha256])


@asynccontextmanager
async def listening(
    files: ServedFiles,
    key: str,
    data_dir: Path,
    options: DirectOptions = LOOPBACK,
    *,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[Listener, Direct]]:
    listener = Listener(files, lambda: key, clock=clock)
    listener.start(options, data_dir)
    announced = listener.announced(options)
    assert announced is not None
    try:
        yield listener, announced
    finally:
        await listener.close()


def source(
    where: Direct,
    key: str,
    files: list[DeploymentFile],
    *,
    agent_id: str = "there",
    is_owner: bool = False,
    reader: str = "me",
) -> DirectSource:
    signatures = [direct.sign(key, sha256=file.sha256, reader=reader, expires_at=EXPIRES) for file in files]
    return DirectSource(
        agent_id=agent_id,
        address=where.address,
        fingerprint=where.fingerprint,
        is_owner=is_owner,
        reader=reader,
        signatures=signatures,
    )


@dataclass
class Box:
    """An agent with one deployment."""

    number: int
    cache: Cache
    puller: Puller
    listener: Listener
    direct: Direct
    phase: Phase = Phase.WAITING
    is_connected: bool = True

    @property
    def deployment_id(self) -> uuid.UUID:
        return uuid.UUID(int=self.number)

    @property
    def key(self) -> str:
        return f"{self.number:064x}"


class Site:
    """Its agents know each other by what the server would say."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.boxes: list[Box] = []

    async def grant(self, box: Box) -> Grant:
        others = {
            rules.Copy(each.deployment_id, each.phase, is_whole=each.phase is Phase.READY): each
            for each in self.boxes
            if each.is_connected
        }
        before = [others[copy] for copy in rules.copies_before(box.deployment_id, others)]
        files = self.storage.manifest()
        sources = [
            source(each.direct, each.key, files, agent_id=str(each.number), reader=str(box.number)) for each in before
        ]
        return (await self.storage.grant()).model_copy(update={"sources": sources, "expires_at": EXPIRES})

    async def pull(self, box: Box) -> None:
        box.phase = Phase.PULLING
        await box.puller.pull(self.storage.manifest(), lambda: self.grant(box), lambda _: None)
        box.phase = Phase.READY

    @asynccontextmanager
    async def box(self, folder: Path) -> AsyncIterator[Box]:
        number = len(self.boxes) + 1
        cache = Cache(folder / str(number))
        reader = DirectReader(LOOPBACK.allowed)
        async with aiohttp.ClientSession() as http:
            puller = Puller(cache, http, direct=reader, retry_first=0.001)
            files = CachedFiles(cache, puller)
            async with listening(files, f"{number:064x}", cache.folder) as (listener, where):
                box = Box(number, cache, puller, listener, where)
                self.boxes.append(box)
                try:
                    yield box
                finally:
                    await reader.close()
            puller.close()
            files.close()
