import pytest

from modelshare.agent.engines.base import EngineKind, Format, Task
from modelshare.agent.engines.select import Machine, choose

EVERYTHING = Machine(frozenset(EngineKind), gpu=True)
CPU = Machine(frozenset({EngineKind.LLAMACPP, EngineKind.TRANSFORMERS, EngineKind.VLLM}))


@pytest.mark.parametrize(
    ("machine", "format_", "task", "unconvertible", "preference", "engine"),
    [
        (CPU, Format.GGUF, Task.CHAT, None, None, EngineKind.LLAMACPP),
        (EVERYTHING, Format.GGUF, Task.EMBEDDING, None, EngineKind.VLLM, EngineKind.LLAMACPP),
        (CPU, Format.SAFETENSORS, Task.CHAT, None, None, EngineKind.LLAMACPP),
        (CPU, Format.SAFETENSORS, Task.CHAT, "no", None, EngineKind.TRANSFORMERS),
        (CPU, Format.SAFETENSORS, Task.CHAT, None, EngineKind.TRANSFORMERS, EngineKind.TRANSFORMERS),
        (CPU, Format.SAFETENSORS, Task.EMBEDDING, "no", EngineKind.VLLM, EngineKind.VLLM),
        (EVERYTHING, Format.SAFETENSORS, Task.CHAT, None, None, EngineKind.VLLM),
        (EVERYTHING, Format.SAFETENSORS, Task.CHAT, None, EngineKind.EXTERNAL, EngineKind.EXTERNAL),
        (CPU, Format.SAFETENSORS, Task.CHAT, None, EngineKind.SGLANG, EngineKind.LLAMACPP),
        (CPU, Format.PICKLE, Task.CHAT, None, None, EngineKind.TRANSFORMERS),
    ],
)
def test_the_preferred_engine_or_the_best_that_can(
    machine: Machine,
    format_: Format,
    task: Task,
    unconvertible: str | None,
    preference: EngineKind | None,
    engine: EngineKind,
) -> None:
    selection = choose(format_, task, machine, unconvertible=unconvertible, preference=preference)

    assert selection.engine is engine
    assert selection.converts == (engine is EngineKind.LLAMACPP and format_ is Format.SAFETENSORS)


def test_where_nothing_can_every_engine_says_why() -> None:
    selection = choose(Format.SAFETENSORS, Task.EMBEDDING, CPU, unconvertible="its pooling is odd.")

    assert selection.engine is None
    assert selection.explanation == (
        "llamacpp: its pooling is odd. transformers: it has no embeddings route. vllm: it needs a GPU, and none "
        "was found. sglang: not installed; install sglang, or set the path of its executable. external: no "
        "external server is configured."
    )


def test_a_model_without_a_task_is_served_by_nobody() -> None:
    assert choose(Format.GGUF, Task.OTHER, EVERYTHING, unconvertible=None).engine is None


def test_those_that_can_follow_each_other() -> None:
    selection = choose(Format.SAFETENSORS, Task.CHAT, EVERYTHING, unconvertible=None, preference=EngineKind.LLAMACPP)
    assert selection.candidates == (
        *(EngineKind.LLAMACPP, EngineKind.VLLM, EngineKind.SGLANG, EngineKind.TRANSFORMERS),
    )


def test_what_does_not_suit_the_model_is_passed_over_and_told() -> None:
    reasons = {EngineKind.VLLM: "it pools otherwise.", EngineKind.LLAMACPP: "it failed."}
    selection = choose(Format.SAFETENSORS, Task.CHAT, EVERYTHING, unconvertible=None, unsuited=reasons)
    assert selection.candidates == (EngineKind.SGLANG, EngineKind.TRANSFORMERS)
    assert "vllm: it pools otherwise." in selection.explanation
