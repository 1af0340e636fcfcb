"""llama.cpp itself, on the tiny models."""

import asyncio
import json
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import xllamacpp

from agent.engines.conftest import Started, gguf_spec
from agent.engines.relay import HELLO, PUBLIC_NAME, Counts, ask, said, stream
from modelshare.agent.engine_pool import EngineLostError
from modelshare.agent.engines import llamacpp, parameters
from modelshare.agent.engines.base import Engine, EngineError, EngineOptions, EngineSpec, Load, Route, Task
from modelshare.agent.engines.counts import TokenUsage
from modelshare.agent.engines.diagnosis import NOT_LOADED, PORT_TAKEN, diagnose
from modelshare.agent.engines.llamacpp_gpus import any_gpu
from modelshare.agent.engines.plugin import Machine
from modelshare.agent.engines.refusals import EngineRefusalError
from modelshare.agent.engines.supervisor import ProcessEngine, free_port
from modelshare.demo.tiny_model import REPLY
from modelshare.wire.inference import BadInferenceRequestError

pytestmark = pytest.mark.anyio


async def test_answers(chat_engine: Engine) -> None:
    answer, usage = await ask(chat_engine, **HELLO)

    assert answer["choices"][0]["message"]["content"] == REPLY
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["model"] == PUBLIC_NAME
    assert usage == TokenUsage(answer["usage"]["prompt_tokens"], 8)


def test_weights_take_main_memory_unless_llamacpp_itself_can_use_a_gpu(chat_gguf: Path, state_dir: Path) -> None:
    spec = replace(gguf_spec(chat_gguf), options=EngineOptions(gpu=True))
    engine = llamacpp.LlamaCpp(Machine(state_dir, gpu=True)).engine(spec, state_dir)
    assert engine.mapped_bytes == (0 if any_gpu(xllamacpp.get_device_info()) else chat_gguf.stat().st_size)


def test_a_device_that_uses_main_memory_is_no_gpu() -> None:
    kinds = xllamacpp.ggml_backend_dev_type
    cpu, blas, gpu = ({"type": getattr(kinds, f"GGML_BACKEND_DEVICE_TYPE_{kind}")} for kind in ("CPU", "ACCEL", "GPU"))
    assert not any_gpu([cpu, blas])
    assert any_gpu([gpu, cpu])


async def test_streams(chat_engine: Engine) -> None:
    counts: Counts = []

    events = b"".join([piece async for piece in stream(chat_engine, counts, **HELLO)])

    assert said(events) == REPLY
    assert counts[0].usage.completion_tokens == 8
    assert counts[0].usage.prompt_tokens > 0


async def test_completes_text(chat_engine: Engine) -> None:
    answer, usage = await ask(chat_engine, Route.COMPLETIONS, prompt="one two", max_tokens=3, temperature=0)

    assert answer["model"] == PUBLIC_NAME
    assert usage.completion_tokens == 3


@pytest.mark.parametrize("wanted", [0, 2])
async def test_log_probabilities_of_a_completion_have_their_own_form(chat_engine: Engine, wanted: int) -> None:
    asked = {"prompt": "Hello", "max_tokens": 3, "temperature": 0, "logprobs": wanted}
    answer, _ = await ask(chat_engine, Route.COMPLETIONS, **asked)

    (choice,) = answer["choices"]
    told = choice["logprobs"]
    assert told.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == [choice["text"].index(token) for token in told["tokens"]]
    assert all(value <= 0 for value in told["token_logprobs"])
    assert told["top_logprobs"] is None if wanted == 0 else all(len(tops) == wanted for tops in told["top_logprobs"])


VALUES: dict[str, Any] = {
    **dict.fromkeys(["temperature", "dry_multiplier", "dynatemp_range", "xtc_probability", "mirostat"], 0),
    **dict.fromkeys(["top_p", "repeat_penalty", "typical_p", "dry_base", "dynatemp_exponent", "top_n_sigma"], 1.0),
    **dict.fromkeys(["max_tokens", "max_completion_tokens", "seed", "repeat_last_n", "top_k", "top_logprobs"], 3),
    **dict.fromkeys(["dry_allowed_length", "dry_penalty_last_n"], 2),
    **dict.fromkeys(["min_p", "xtc_threshold", "mirostat_tau", "mirostat_eta"], 0.1),
    **dict.fromkeys(["presence_penalty", "frequency_penalty"], 0.5),
    **dict.fromkeys(["logprobs", "ignore_eos", "add_generation_prompt"], True),
    "stop": ["zzz"],
    "logit_bias": {"5": 1},
    "reasoning_format": "none",
    "response_format": {"type": "json_object"},
    "chat_template_kwargs": {"x": 1},
    "grammar": 'root ::= "one"',
    "json_schema": {"type": "object"},
}


async def test_the_engine_takes_every_parameter_that_passes(chat_engine: Engine) -> None:
    for name in parameters.LLAMACPP - parameters.TOOLS - {"encoding_format", "top_logprobs"}:
        answer, usage = await ask(chat_engine, **HELLO | {"max_tokens": 3, name: VALUES[name]})
        assert answer["choices"], name
        assert not usage.estimated, name
        assert answer.keys() <= {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    answer, _ = await ask(chat_engine, **HELLO, logprobs=True, top_logprobs=3, max_tokens=2)
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    answer, _ = await ask(chat_engine, **HELLO, grammar='root ::= "one"')
    assert answer["choices"][0]["message"]["content"] == "one"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": [{"role": "user", "content": "Hi " * 5000}]}, "context_length_exceeded", "messages"),
        ({"grammar": "root ::= (("}, None, None),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "quux"}}}}, None, None),
    ],
)
async def test_what_the_engine_refuses_is_told_in_our_words(
    fields: dict[str, Any], code: str | None, param: str | None, chat_engine: Engine
) -> None:
    with pytest.raises(EngineRefusalError) as refusal:
        await ask(chat_engine, **HELLO | fields)
    error = json.loads(refusal.value.envelope())["error"]
    assert (refusal.value.status, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert code or "grammar or schema" in error["message"]


async def test_tools_are_refused_for_a_model_whose_template_knows_none(chat_engine: Engine, chat_gguf: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    with pytest.raises(BadInferenceRequestError, match="`tools`") as refusal:
        await ask(chat_engine, **HELLO, tools=tools)
    assert refusal.value.param == "tools"
    policy = llamacpp.recipe(gguf_spec(chat_gguf)).relay
    assert llamacpp.refined(policy, b'{"chat_template_caps":{"supports_tools":true}}') is policy
    assert llamacpp.refined(policy, b"") is policy


async def test_four_at_once(chat_engine: Engine) -> None:
    answers = await asyncio.gather(*(ask(chat_engine, **HELLO) for _ in range(4)))

    assert [answer["choices"][0]["message"]["content"] for answer, _ in answers] == [REPLY] * 4


async def test_nobody_gets_in_without_the_secret(chat_engine: Engine) -> None:
    url = f"{chat_engine.base_url}/{Route.CHAT}"
    async with aiohttp.ClientSession() as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with http.post(url, json=HELLO, headers=headers | {"Origin": "http://elsewhere"}) as answer:
                assert answer.status == 401
                assert not answer.headers.get("Access-Control-Allow-Origin")


async def test_is_reached_from_this_machine_only(chat_engine: Engine) -> None:
    port = int(chat_engine.base_url.removesuffix("/v1").rpartition(":")[2])
    listening = [
        connection.laddr.ip
        for process in psutil.Process().children()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]

    assert listening == ["127.0.0.1"]


async def test_a_stream_that_is_given_up_frees_the_engine(loop_gguf: Path, state_dir: Path, started: Started) -> None:
    engine = await started(ProcessEngine(llamacpp.recipe(long_spec(loop_gguf)), state_dir))
    counts: Counts = []
    endless = stream(engine, counts, **HELLO, max_tokens=1_000_000)
    text = b""
    while b"three" not in text:
        text += await anext(endless)
    assert await engine.load() == Load(1, 0)

    await endless.aclose()

    await until_load(engine, Load(0, 0))


async def test_stopping_lets_a_request_end(loop_gguf: Path, state_dir: Path) -> None:
    engine = ProcessEngine(llamacpp.recipe(gguf_spec(loop_gguf)), state_dir)
    await engine.start()
    counts: Counts = []
    running = stream(engine, counts, **HELLO, max_tokens=300)
    with engine.activity.request():
        text = await anext(running)
        stopping = asyncio.create_task(engine.stop(grace=30))
        text += b"".join([piece async for piece in running])
    await stopping

    assert said(text).startswith("one two three")
    assert counts[0].usage.completion_tokens == 300
    assert not await engine.health()


async def test_a_request_beyond_the_grace_is_cut(loop_gguf: Path, state_dir: Path) -> None:
    engine = ProcessEngine(llamacpp.recipe(long_spec(loop_gguf)), state_dir)
    await engine.start()
    counts: Counts = []
    endless = stream(engine, counts, **HELLO, max_tokens=1_000_000)
    with engine.activity.request():
        await anext(endless)
        await engine.stop(grace=0.01)  # an answer as long as the context takes about 0.2 s

        with pytest.raises(EngineLostError):
            async for _ in endless:
                pass


async def test_a_taken_port_is_no_failure(chat_gguf: Path, state_dir: Path, started: Started) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], free_port()])
        engine = await started(
            ProcessEngine(llamacpp.recipe(gguf_spec(chat_gguf)), state_dir, pick_port=lambda: next(ports))
        )

        assert (await ask(engine, **HELLO))[0]["choices"]


async def test_without_llama_cpps_log_a_taken_port_is_told_from_a_bad_file(chat_gguf: Path, tmp_path: Path) -> None:
    """The process may exit before llama.cpp has written its log."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no GGUF at all")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port_taken = diagnose([await own_line(chat_gguf, taken.getsockname()[1])], 1)
    not_loaded = diagnose([await own_line(bad, free_port())], 1)

    assert port_taken.port_taken
    assert not not_loaded.port_taken
    assert "cannot read the model's files" in not_loaded.reason


async def own_line(model: Path, port: int) -> str:
    """Starts llama.cpp's program, which fails, and returns the line that it prints apart from llama.cpp's log."""
    words = ("-m", "modelshare.agent.engines.llamacpp_server", "--model", str(model), "--alias", "x")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *words, "--port", str(port), "--context", "64"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ENGINE_API_KEY": "key"},
    )
    assert process.stdin is not None
    assert process.stderr is not None
    errors = await process.stderr.read()
    assert await process.wait() == 1
    process.stdin.close()
    (line,) = (line for line in errors.decode().splitlines() if line.startswith((PORT_TAKEN, NOT_LOADED)))
    return line


@pytest.mark.parametrize("damage", ["no GGUF at all", "cut"])
async def test_a_bad_file_is_told_in_words(damage: str, chat_gguf: Path, tmp_path: Path, state_dir: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(chat_gguf.read_bytes()[:200_000] if damage == "cut" else b"no GGUF at all")
    engine = ProcessEngine(llamacpp.recipe(gguf_spec(bad)), state_dir)

    with pytest.raises(EngineError, match="cannot read the model's files"):
        await engine.start()

    assert any("bad.gguf" in line for line in engine.log_tail)
    assert not list((state_dir / "engines").iterdir())


async def test_a_death_is_noticed_and_told(chat_engine: Engine) -> None:
    died = asyncio.create_task(chat_engine.died())
    psutil.Process(engine_process().pid).kill()

    assert await asyncio.wait_for(died, 60) == "The system killed the engine, most likely because memory ran out."


async def test_the_secret_is_neither_an_argument_nor_in_the_log(chat_engine: Engine) -> None:
    secret = chat_engine.headers["Authorization"].removeprefix("Bearer ")

    assert len(secret) >= 40
    assert not any(secret in argument for argument in engine_process().cmdline())
    assert not any(secret in line for line in chat_engine.log_tail)


async def test_the_agents_own_secrets_are_kept_from_it(
    chat_gguf: Path, state_dir: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODELSHARE_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY", "DATABASE_URL"):
        monkeypatch.setenv(name, "a secret of the machine")
    await started(ProcessEngine(llamacpp.recipe(gguf_spec(chat_gguf)), state_dir))

    environment = engine_process().environ()
    assert "a secret of the machine" not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]


async def test_a_model_without_pooling_does_not_embed(chat_gguf: Path, state_dir: Path) -> None:
    with pytest.raises(EngineError, match="status 400"):
        await ProcessEngine(llamacpp.recipe(gguf_spec(chat_gguf, Task.EMBEDDING)), state_dir).start()


def long_spec(path: Path) -> EngineSpec:
    return replace(gguf_spec(path), options=EngineOptions(threads=1, parallel=1, context=200_000))


def engine_process() -> psutil.Process:
    """Beside it there may be others of these tests, such as a database."""
    (process,) = [child for child in psutil.Process().children() if "--model" in child.cmdline()]
    return process


async def until_load(engine: Engine, wanted: Load) -> None:
    seen: list[Any] = []

    async def check() -> None:
        while not seen or seen[-1] != wanted:
            seen.append(await engine.load())

    await asyncio.wait_for(check(), 60)
