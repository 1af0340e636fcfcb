import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines import llamacpp, sglang, transformers, vllm
from modelshare.agent.engines.base import EngineError, EngineOptions, EngineSpec, Format, Load, Route, Task
from modelshare.agent.engines.launch import wrapped
from modelshare.agent.engines.probe import load_in
from modelshare.agent.engines.recipe import LoadMetrics


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    (tmp_path / "model.safetensors").write_bytes(b"")
    return EngineSpec(path=tmp_path, served_name="acme/tiny", format=Format.SAFETENSORS, task=Task.CHAT)


def test_vllm(spec: EngineSpec) -> None:
    command = vllm.recipe(spec, "vllm").command(4000, "secret")

    assert command.argv == wrapped(
        f"vllm serve {spec.path} --host 127.0.0.1 --port 4000 --served-model-name acme/tiny "
        "--shutdown-timeout 30 --disable-fastapi-docs".split()
    )
    assert command.env["VLLM_API_KEY"] == "secret"
    assert command.env["HF_HUB_OFFLINE"] == "1"


def test_vllm_embeds_and_limits_the_context(spec: EngineSpec) -> None:
    options = EngineOptions(context=512, extra_args=("--enforce-eager",))
    recipe = vllm.recipe(replace(spec, task=Task.EMBEDDING, options=options), "vllm")

    expected = ("--runner", "pooling", "--max-model-len", "512", "--enforce-eager")
    assert recipe.command(1, "k").argv[-5:] == expected
    assert recipe.routes == {Route.EMBEDDINGS}


def test_sglang(spec: EngineSpec) -> None:
    recipe = sglang.recipe(spec, "sglang")

    assert recipe.command(4000, "secret").argv == wrapped(
        f"sglang serve --model-path {spec.path} --host 127.0.0.1 --port 4000 --served-model-name acme/tiny "
        "--api-key secret --enable-metrics".split()
    )
    assert recipe.health_seconds >= 25


def test_sglang_refuses_a_name_with_a_colon(spec: EngineSpec) -> None:
    with pytest.raises(EngineError, match="colon"):
        sglang.recipe(replace(spec, served_name="a:b"), "sglang")


def test_transformers(spec: EngineSpec, tmp_path: Path) -> None:
    recipe = transformers.recipe(replace(spec, weights=(spec.path / "model.safetensors",)), tmp_path / "home")
    command = recipe.command(4000, "unused")

    module = "modelshare.agent.engines.transformers_server"
    expected = f"-P -m {module} --model {spec.path} --port 4000 --weights-bytes 0".split()
    assert command.argv == (sys.executable, *expected)
    assert command.env == {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    assert recipe.relay.request_model is None


def test_transformers_is_told_the_context_for_which_tokens_are_counted(spec: EngineSpec, tmp_path: Path) -> None:
    for wanted in (replace(spec, context_length=512), replace(spec, options=EngineOptions(context=512))):
        recipe = transformers.recipe(wanted, tmp_path)
        assert recipe.command(1, "k").argv[-2:] == ("--context", "512")
        assert recipe.relay.context_length == 512


@pytest.mark.parametrize(
    ("cuda", "declared", "weights_bytes", "options"),
    [
        (False, "bfloat16", 1 << 30, "--device cpu --dtype float32"),
        (False, "float16", 5 << 30, "--device cpu --dtype bfloat16"),
        (True, "float16", 1 << 30, "--device cuda --dtype float16"),
        (True, "bfloat16", 1 << 30, "--device cuda --dtype bfloat16"),
        (True, "float32", 1 << 30, "--device cuda --dtype bfloat16"),
        (True, "None", 1 << 30, "--device cuda --dtype bfloat16"),
    ],
)
def test_transformers_computes_with_the_numbers_that_suit_device_and_model(
    cuda: bool, declared: str, weights_bytes: int, options: str
) -> None:
    chosen = transformers.device_options(cuda=cuda, declared=declared, weights_bytes=weights_bytes)
    assert chosen == tuple(options.split())


@given(*[st.integers(1, 100)] * 3)
def test_transformers_stays_within_the_context(prompt: int, wanted: int, context: int) -> None:
    tokens = transformers.answer_tokens(prompt, wanted, context)
    assert tokens == min(wanted, transformers.answer_tokens(prompt, None, context))
    assert tokens == wanted or prompt + tokens == context


def test_transformers_refuses_a_path_that_it_would_misread(spec: EngineSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'@'"):
        transformers.recipe(replace(spec, path=tmp_path / "a@b"), tmp_path)


def test_llamacpp_opens_the_file_that_it_is_given(spec: EngineSpec) -> None:
    first = spec.path / "b-00001-of-00002.gguf"
    for name in ("a-mmproj.gguf", "b-00002-of-00002.gguf", first.name):
        (spec.path / name).write_bytes(b"GGUF")
    argv = llamacpp.recipe(replace(spec, path=first)).command(4000, "secret").argv
    assert argv[argv.index("--model") + 1] == str(first)
    assert "secret" not in argv


def test_llamacpp_needs_a_model(spec: EngineSpec) -> None:
    with pytest.raises(EngineError, match="no GGUF model"):
        llamacpp.recipe(spec)


def test_the_secret_is_no_option_where_the_engine_takes_it_otherwise(spec: EngineSpec) -> None:
    assert "secret" not in vllm.recipe(spec, "vllm").command(1, "secret").argv


def test_load_is_added_up_over_labels() -> None:
    text = '# TYPE r gauge\nr{engine="0"} 2.0\nr{engine="1"} 1.0\nr_total 9\nw 4\n'

    assert load_in(text, LoadMetrics("r", "w")) == Load(3, 4)
    assert load_in(text, LoadMetrics("r", "absent")) is None


def test_llamacpp_maps_the_model_it_opens_in_all_its_parts(tmp_path: Path) -> None:
    parts = tuple(tmp_path / f"model-0000{number}-of-00002.gguf" for number in (1, 2))
    for number, part in enumerate(parts, 1):
        part.write_bytes(b"GGUF" * number)
    (tmp_path / "other-quantization.gguf").write_bytes(b"GGUF" * 100)
    spec = EngineSpec(path=parts[0], weights=parts, served_name="acme/tiny", format=Format.GGUF, task=Task.CHAT)
    assert llamacpp.recipe(spec).mapped_bytes == 12
    assert llamacpp.recipe(replace(spec, options=EngineOptions(gpu=True))).mapped_bytes == 0
    single = replace(spec, path=tmp_path / "other-quantization.gguf", weights=())
    assert llamacpp.recipe(single).mapped_bytes == 400
