"""What a push says of an embedding model: the rules themselves are tested with `modelshare.embedder`."""

import json
from typing import Any

import pytest

from modelshare.server.registry.inspection import Facts, ModelRejectedError, Task
from unit.registry.samples import inspect_bytes, safetensors_file

PARTS = [("Transformer", ""), ("Pooling", "1_Pooling")]
POOLING = {"embedding_dimension": 4, "pooling_mode": "mean"}
WEIGHTS = safetensors_file({"embeddings.word_embeddings.weight": ("F32", [2, 4])})


def inspected(folder: str = "", architecture: str = "BertModel", files: dict[str, Any] | None = None) -> Facts:
    prefix = f"{folder}/" if folder else ""
    parts = [(kind, folder if kind == "Transformer" else path) for kind, path in PARTS]
    modules = [
        {"name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(parts)
    ]
    config = {"architectures": [architecture], "model_type": "bert", "max_position_embeddings": 64}
    values = {"modules.json": modules, "1_Pooling/config.json": POOLING, f"{prefix}config.json": config} | (files or {})
    encoded = {
        name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in values.items()
    }
    return inspect_bytes({f"{prefix}model.safetensors": WEIGHTS, **encoded})


@pytest.mark.parametrize("folder", ["", "0_Transformer"])
def test_what_is_served_gives_no_warning(folder: str) -> None:
    facts = inspected(folder)
    assert (facts.task, facts.architecture, facts.context_length) == (Task.EMBEDDING, "BertModel", 64)
    assert facts.warnings == ()


def test_what_is_not_served_is_told_at_the_push() -> None:
    facts = inspected(files={"1_Pooling/config.json": POOLING | {"pooling_mode": ["mean", "max"]}})
    (warning,) = facts.warnings
    assert warning.startswith("No default engine can serve this model: it combines several poolings")
    assert "its architecture is MPNetModel" in inspected(architecture="MPNetModel").warnings[0]


def test_prompts_that_callers_add_are_told() -> None:
    settings = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None}
    assert "prompts (query)" in inspected(files={"config_sentence_transformers.json": settings}).warnings[0]


@pytest.mark.parametrize("content", [b"", b"{", {"embedding_dimension": 4, "pooling_mode": "best"}])
def test_a_declaration_that_cannot_be_read_is_refused(content: Any) -> None:
    with pytest.raises(ModelRejectedError, match=r"1_Pooling/config\.json"):
        inspected(files={"1_Pooling/config.json": content})
