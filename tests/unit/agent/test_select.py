"""Which engine serves a model, and what is said of the others."""

from collections.abc import Collection
from pathlib import Path

import pytest

from modelshare.agent.engines.base import Format, Task
from modelshare.agent.engines.plugin import EngineType, Machine, ModelFacts
from modelshare.agent.engines.select import choose, find_engines

REGISTERED = find_engines(Machine(Path("state")))
ALL = tuple(REGISTERED)
ON_CPU = ("llamacpp", "transformers", "vllm")


def engines(installed: Collection[str] = ALL) -> dict[str, EngineType]:
    """The registered ones, as if these were installed."""
    found: dict[str, EngineType] = {}
    for name, engine in REGISTERED.items():
        lacks = None if name in installed else "it is not installed."
        found[name] = type(name, (type(engine),), {"missing": lambda _, lacks=lacks: lacks})(engine.machine)
    return found


CPU, EVERYTHING = (engines(ON_CPU), False), (engines(), True)


@pytest.mark.parametrize(
    ("machine", "format_", "task", "unconvertible", "preference", "engine"),
    [
        (CPU, Format.GGUF, Task.CHAT, None, None, "llamacpp"),
        (EVERYTHING, Format.GGUF, Task.EMBEDDING, None, "vllm", "llamacpp"),
        (CPU, Format.SAFETENSORS, Task.CHAT, None, None, "llamacpp"),
        (CPU, Format.SAFETENSORS, Task.CHAT, "no", None, "transformers"),
        (CPU, Format.SAFETENSORS, Task.CHAT, None, "transformers", "transformers"),
        (CPU, Format.SAFETENSORS, Task.EMBEDDING, "no", "vllm", "vllm"),
        (EVERYTHING, Format.SAFETENSORS, Task.CHAT, None, None, "vllm"),
        (EVERYTHING, Format.SAFETENSORS, Task.CHAT, None, "external", "external"),
        (CPU, Format.SAFETENSORS, Task.CHAT, None, "sglang", "llamacpp"),
        (CPU, Format.PICKLE, Task.CHAT, None, None, "transformers"),
    ],
)
def test_the_preferred_engine_or_the_best_that_can(
    machine: tuple[dict[str, EngineType], bool],
    format_: Format,
    task: Task,
    unconvertible: str | None,
    preference: str | None,
    engine: str,
) -> None:
    found, gpu = machine
    model = ModelFacts(format_, task, unconvertible)
    assert choose(found, model, gpu=gpu, preference=preference).engine == engine


def test_only_llamacpp_wants_gguf() -> None:
    assert [name for name, engine in REGISTERED.items() if engine.wants_gguf] == ["llamacpp"]


def test_where_nothing_can_every_engine_says_why() -> None:
    found = engines(ON_CPU) | {"external": REGISTERED["external"]}
    selection = choose(found, ModelFacts(Format.SAFETENSORS, Task.EMBEDDING, "its pooling is odd."))

    assert selection.engine is None
    assert selection.explanation == (
        "llamacpp: its pooling is odd. transformers: it has no embeddings route. "
        "vllm: it needs a GPU, and none was found. sglang: it is not installed. "
        "external: no external server is configured. ray: it is not installed."
    )


def test_a_model_without_a_task_is_served_by_nobody() -> None:
    assert choose(engines(), ModelFacts(Format.GGUF, Task.OTHER), gpu=True).engine is None


def test_those_that_can_follow_each_other() -> None:
    selection = choose(engines(), ModelFacts(Format.SAFETENSORS, Task.CHAT), gpu=True, preference="llamacpp")
    assert selection.candidates == ("llamacpp", "vllm", "sglang", "transformers")


def test_what_failed_is_passed_over_and_told() -> None:
    failed = {"vllm": "it fell over.", "llamacpp": "it failed."}
    selection = choose(engines(), ModelFacts(Format.SAFETENSORS, Task.CHAT), gpu=True, failed=failed)
    assert selection.candidates == ("sglang", "transformers")
    assert "vllm: it fell over." in selection.explanation
