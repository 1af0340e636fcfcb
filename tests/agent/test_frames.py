"""Whatever frames a server sends, an agent reads them or leaves the link; nothing else comes of it."""

import asyncio
from random import Random

import aiohttp
import pytest
from aiohttp import web

import odd_frames
from agent.peer import Recorder
from modelshare.agent.connection import Connection, LinkLostError
from modelshare.agent.link import Link
from modelshare.agent.streams import Streams

pytestmark = pytest.mark.anyio
LINKS = 60


async def test_arbitrary_frames_are_read_or_end_the_link() -> None:
    ended = {"read": 0, "lost": 0}

    async def serve(request: web.Request) -> web.WebSocketResponse:
        random = Random(request.query["seed"])
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while not socket.closed and random.random() < 0.99:
            honest = odd_frames.from_server(random)
            await socket.send_bytes(
                odd_frames.changed(random, honest) if random.random() < 0.1 else odd_frames.encode(honest)
            )
            await asyncio.sleep(0)
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = "http://{}:{}/".format(*runner.addresses[0][:2])
    async with aiohttp.ClientSession() as http:
        for seed in range(LINKS):
            async with http.ws_connect(url, params={"seed": str(seed)}) as socket:
                connection, recorder = Connection(socket), Recorder()
                streams = Streams(connection, recorder.serve)
                receive = Link(url, "msa_x", recorder)._receiver(connection, streams)
                with pytest.raises(LinkLostError) as lost:
                    await asyncio.wait_for(connection.read(receive), 20)
                ended["lost" if lost.value.close_code == 4400 else "read"] += 1
                await streams.close()
    await runner.cleanup()
    assert all(ended.values())
