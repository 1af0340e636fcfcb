"""`transformers serve` itself, on the tiny model. One start for all, since it takes seconds."""

import asyncio
import importlib.util
import inspect
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agent.engines.conftest import Started
from agent.engines.relay import HELLO, PUBLIC_NAME, Counts, answered, ask, prepared, said, stream
from agent.support import wait_until
from modelshare.agent.engines import parameters, transformers
from modelshare.agent.engines.base import Engine, EngineSpec, Format, Route, Task
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.demo import tiny_model

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not importlib.util.find_spec("transformers"), reason="the extra [transformers] is not installed"
    ),
]

_CONTEXT = 2048
"""Of the tiny model, in tokens."""


async def test_serves(tmp_path: Path, state_dir: Path, started: Started) -> None:
    model = tmp_path / "loop"
    tiny_model.write_hf(model, loop=True)
    spec = EngineSpec(path=model, served_name=PUBLIC_NAME, format=Format.SAFETENSORS, task=Task.CHAT)
    engine = await started(ProcessEngine(transformers.recipe(spec, state_dir / "home"), state_dir))
    assert engine.routes == {Route.CHAT, Route.COMPLETIONS}

    answer, usage = await ask(engine, **HELLO, max_tokens=5)
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two three four five", "length")
    assert (answer["model"], answer["object"]) == (PUBLIC_NAME, "chat.completion")
    assert usage == TokenUsage(answer["usage"]["prompt_tokens"], 5)
    assert str(model) not in json.dumps(answer)

    counts: Counts = []
    events = b"".join([piece async for piece in stream(engine, counts, **HELLO, max_tokens=5)])
    assert said(events) == choice["message"]["content"]
    assert counts[0].usage == usage

    completion, _ = await ask(engine, Route.COMPLETIONS, prompt="Hi", max_tokens=2, temperature=0)
    assert (completion["object"], completion["choices"][0]["finish_reason"]) == ("text_completion", "length")

    await _fill_the_context(engine)

    await _give_up(engine, answered(engine, prepared(engine, Route.CHAT, **HELLO, max_tokens=1_000_000), []))
    await asyncio.wait_for(ask(engine, **HELLO, max_tokens=1), 60)


async def _fill_the_context(engine: Engine) -> None:
    """An answer ends where the model's context does, and a prompt that leaves no room for one is refused."""
    answer, usage = await ask(engine, Route.COMPLETIONS, prompt="~" * (_CONTEXT - 2), max_tokens=10, temperature=0)
    assert (usage, answer["choices"][0]["finish_reason"]) == (TokenUsage(_CONTEXT - 2, 2), "length")
    with pytest.raises(EngineRefusalError, match="longer than the model's context") as refusal:
        await ask(engine, Route.COMPLETIONS, prompt="~" * _CONTEXT, max_tokens=1)
    assert refusal.value.status == 400
    long = {"messages": [{"role": "user", "content": "Hi " * _CONTEXT}]}
    with pytest.raises(EngineRefusalError, match="longer than the model's context"):
        _ = [piece async for piece in stream(engine, [], **long)]


async def _give_up(engine: Engine, answer: AsyncGenerator[bytes, None]) -> None:
    """Leaves as soon as the engine works on the answer."""
    before = engine.activity.last_success
    waiting = asyncio.create_task(anext(answer))
    await wait_until(lambda: engine.activity.last_success > before, seconds=60)
    waiting.cancel()
    await asyncio.wait([waiting])


@pytest.mark.filterwarnings("ignore")  # it warns on import
def test_no_argument_of_its_tokenizers_is_taken_for_a_variable_of_a_template() -> None:
    processing = pytest.importorskip("transformers.processing_utils")
    tokenization = pytest.importorskip("transformers.tokenization_utils_base")
    tokenizer, processor = tokenization.PreTrainedTokenizerBase, processing.ProcessorMixin
    functions = (tokenizer.apply_chat_template, processor.apply_chat_template, processor.__call__)
    names = {name for function in functions for name in inspect.signature(function).parameters}
    for options in (processing.TextKwargs, processing.ProcessingKwargs):
        names |= options.__annotations__.keys()
    assert names - {"self", "kwargs", "tools", "documents"} <= parameters.TOKENIZER_ARGUMENTS
