"""A program that pulls one file and may be killed: FOLDER URL SIZE SHA256."""

import asyncio
import sys
from pathlib import Path

from agent.support import pulling
from modelshare.wire.agents import Grant, GrantFile
from modelshare.wire.link import DeploymentFile


async def main(folder: str, url: str, size: str, sha256: str) -> None:
    file = GrantFile(path="model.gguf", size=int(size), sha256=sha256, url=url)

    async def grant() -> Grant:
        return Grant(deployment_id="dep_1", manifest_digest="", files=[file], expires_at=0)

    async with pulling(Path(folder)) as (_, puller):
        await puller.pull([DeploymentFile(file.path, file.size, file.sha256)], grant, lambda _: None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
