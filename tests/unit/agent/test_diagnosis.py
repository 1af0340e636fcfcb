import pytest

from modelshare.agent.engines.diagnosis import diagnose


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "does not fit into the memory"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 1", "does not fit into"),
        ("ModuleNotFoundError: No module named 'flash_attn'", "lacks the Python package flash_attn;"),
        (
            "error loading model: unknown model architecture: 'mamba9'",
            "does not support the model's architecture mamba9;",
        ),
        ("Model architectures ['FooForCausalLM'] are not supported for now.", "architecture FooForCausalLM;"),
        ("error loading model vocabulary: unknown pre-tokenizer type: 'x-1'", "tokenizer x-1;"),
        ("error loading model: key not found in model: llama.block_count", "not state its llama.block_count, which"),
        ("gguf_init_from_reader: invalid magic characters: 'hell', expected 'GGUF'", "cannot read the model's files"),
        ("safetensors_rust.SafetensorError: Error while deserializing header", "cannot read the model's files"),
        (
            "The model does not load: Failed to init server, please check the input params.",
            "too large for this machine",
        ),
        ("vllm cannot be started: Permission denied", "vllm cannot be started: Permission denied;"),
    ],
)
def test_known_last_words(line: str, reason: str) -> None:
    diagnosis = diagnose(["loading", line, "exiting"], 1)

    assert reason in diagnosis.reason
    assert not diagnosis.port_taken
    assert "{" not in diagnosis.reason


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use",
        "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 40001",
    ],
)
def test_a_taken_port_is_told_apart(line: str) -> None:
    assert diagnose([line], 1).port_taken


@pytest.mark.parametrize(
    ("returncode", "reason"),
    [
        (-9, "The system killed the engine, most likely because memory ran out."),
        (137, "The system killed the engine, most likely because memory ran out."),
        (-11, "The engine exited with signal SIGSEGV. Its last output: so long"),
        (139, "The engine exited with signal SIGSEGV. Its last output: so long"),
        (3, "The engine exited with exit code 3. Its last output: so long"),
        (None, "The engine is not responding. Its last output: so long"),
    ],
)
def test_unknown_last_words_are_passed_on(returncode: int | None, reason: str) -> None:
    assert diagnose(["so long", ""], returncode).reason == reason


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: hidden_size must be positive",
        "huggingface_hub.errors.StrictDataclassFieldValidationError: Validation error for field 'x':",
        "AttributeError: 'NoneType' object has no attribute 'get'",
        '  File "/opt/venv/lib/python3.11/site-packages/x.py", line 3, in <module>',
        "    ^^^^^^^^",
        "    raise exception",
        "<class 'dict'> is not it",
    ],
)
def test_words_for_programmers_are_left_to_the_log(line: str) -> None:
    assert diagnose([line], 1).reason == "The engine exited with exit code 1. See the agent's log for details."


def test_nothing_said() -> None:
    assert diagnose([], 1).reason == "The engine exited with exit code 1."
