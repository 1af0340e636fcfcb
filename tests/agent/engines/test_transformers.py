"""`transformers serve` itself, on the tiny model. One start for all, since it takes seconds."""

import json
from pathlib import Path

import pytest

from agent.engines.conftest import Started
from agent.engines.relay import HELLO, PUBLIC_NAME, Counts, ask, said, stream
from modelshare.agent.engines import transformers
from modelshare.agent.engines.base import EngineSpec, Format, Route, Task
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.agent.engines.transformers import Transformers
from modelshare.demo.tiny_model import REPLY

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(not Transformers.find(), reason="the extra [transformers] is not installed")
async def test_serves(chat_hf: Path, state_dir: Path, started: Started) -> None:
    spec = EngineSpec(path=chat_hf, served_name=PUBLIC_NAME, format=Format.SAFETENSORS, task=Task.CHAT)
    program = Transformers.find()
    assert program
    engine = await started(ProcessEngine(transformers.recipe(spec, program, state_dir / "home"), state_dir))
    assert engine.routes == {Route.CHAT, Route.COMPLETIONS}

    answer, usage = await ask(engine, **HELLO, max_tokens=20)
    assert answer["choices"][0]["message"]["content"] == REPLY
    assert answer["model"] == PUBLIC_NAME
    assert usage == TokenUsage(answer["usage"]["prompt_tokens"], 8)
    assert str(chat_hf) not in json.dumps(answer)

    counts: Counts = []
    events = b"".join([piece async for piece in stream(engine, counts, **HELLO, max_tokens=20)])
    assert said(events) == REPLY
    assert counts[0].usage == usage
