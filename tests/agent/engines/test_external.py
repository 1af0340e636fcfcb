"""A server that somebody else runs: here, llama.cpp under its own name for the model."""

import asyncio
from pathlib import Path

import pytest

from agent.engines.conftest import Started, gguf_spec
from agent.engines.relay import HELLO, PUBLIC_NAME, ask, said, stream
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.base import Engine, EngineError, EngineSpec
from modelshare.agent.engines.external import ExternalEngine, ExternalServer
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.engines.watch import Timing
from modelshare.demo.tiny_model import REPLY

pytestmark = pytest.mark.anyio

QUICK = Timing(watch=0.05, strikes=2, probe_timeout=5.0)


@pytest.fixture
def spec(chat_gguf: Path) -> EngineSpec:
    return gguf_spec(chat_gguf)


@pytest.fixture
async def server(chat_engine: Engine) -> ExternalServer:
    key = chat_engine.headers["Authorization"].removeprefix("Bearer ")
    return ExternalServer(base_url=chat_engine.base_url, api_key=key, model="llama3:8b")


async def test_serves_under_the_public_name(server: ExternalServer, spec: EngineSpec, started: Started) -> None:
    engine = await started(ExternalEngine(server, spec))

    assert (await ask(engine, **HELLO))[0]["model"] == PUBLIC_NAME
    assert said(b"".join([piece async for piece in stream(engine, [], **HELLO)])) == REPLY


async def test_a_wrong_key_is_told(server: ExternalServer, spec: EngineSpec) -> None:
    with pytest.raises(EngineError, match="does not answer; start the server, or correct its URL or key"):
        await ExternalEngine(ExternalServer(server.base_url, "wrong"), spec).start()


async def test_the_servers_end_is_noticed(spec: EngineSpec, state_dir: Path, started: Started) -> None:
    process = ProcessEngine(llamacpp.recipe(spec), state_dir)
    await process.start()
    key = process.headers["Authorization"].removeprefix("Bearer ")
    engine = await started(ExternalEngine(ExternalServer(process.base_url, key), spec, timing=QUICK))
    died = asyncio.create_task(engine.died())

    await process.stop()

    assert "does not answer any more" in await asyncio.wait_for(died, 10)
