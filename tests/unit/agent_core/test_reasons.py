import pytest

from modelshare.agent.deployment import without_folders


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "Its last output: cannot open /home/ann/agent/views/1/model.gguf: no.",
            "Its last output: cannot open model.gguf: no.",
        ),
        ("/opt/vllm/bin/vllm cannot be started.", "vllm cannot be started."),
        ("'/var/lib/x' is gone", "'x' is gone"),
        ("http://127.0.0.1:8000/v1/models answered 500.", "http://127.0.0.1:8000/v1/models answered 500."),
        ("It needs 3/4 of the memory.", "It needs 3/4 of the memory."),
    ],
)
def test_a_reason_tells_nothing_of_the_machines_folders(reason: str, told: str) -> None:
    assert without_folders(reason) == told
