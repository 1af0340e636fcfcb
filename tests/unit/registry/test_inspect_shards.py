"""Which of a folder's safetensors files are the model, and what is told of the others."""

import json
from typing import Any

import pytest

from modelshare.server.registry.inspection import ModelRejectedError
from modelshare.server.registry.inspection.facts import Role
from unit.registry.samples import CONFIG, LLAMA, WEIGHTS, inspect_bytes, model, reason_of, safetensors_file

WEIGHT_MAP = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


SHARDS = {
    "model-00001-of-00002.safetensors": safetensors_file({"a": ("F32", [2])}),
    "model-00002-of-00002.safetensors": safetensors_file({"b": ("F32", [3])}),
}


def index(weight_map: Any) -> dict[str, bytes]:
    return {"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode()}


def test_sharded_model_is_one_model_whatever_lies_beside_it() -> None:
    extra = {"consolidated.safetensors": WEIGHTS, "2_Dense/model.safetensors": safetensors_file({"d": ("F32", [100])})}
    facts = inspect_bytes(CONFIG | SHARDS | index(WEIGHT_MAP) | extra)
    assert facts.parameters == 105
    assert facts.weights == (*SHARDS, "2_Dense/model.safetensors")


def test_shards_without_an_index_are_warned_of() -> None:
    facts = inspect_bytes(CONFIG | SHARDS)
    assert facts.parameters == 5
    assert "index.json" in facts.warnings[0]


@pytest.mark.parametrize(
    ("files", "because"),
    [
        (
            SHARDS | index(WEIGHT_MAP | {"c": "model-00003.safetensors"}),
            "refers to the file model-00003.safetensors, which is",
        ),
        (SHARDS | index(WEIGHT_MAP | {"c": "../evil.safetensors"}), "in another folder"),
        (SHARDS | index(WEIGHT_MAP | {"c": 5}), "missing"),
        (SHARDS | index(WEIGHT_MAP | {"c": WEIGHT_MAP["a"]}), "lacks the tensor c"),
        (SHARDS | index({}), "no weight_map"),
        (SHARDS | index(["a"]), "no weight_map"),
        (SHARDS | {"model.safetensors.index.json": b"{"}, "not valid JSON"),
        (
            {"model-00002-of-00002.safetensors": SHARDS["model-00002-of-00002.safetensors"]},
            "model-00001-of-00002.safetensors is",
        ),
        ({"model-00001-of-99999.safetensors": WEIGHTS}, "model-00002-of-99999.safetensors is missing"),
    ],
)
def test_incomplete_shards_are_refused(files: dict[str, bytes], because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because):
        inspect_bytes(CONFIG | files)


@pytest.mark.parametrize("path", ["extra.safetensors", "sub/deep/extra.SAFETENSORS", "a/model.safetensors"])
@pytest.mark.parametrize("data", [b"", b"x", WEIGHTS[:-1]])
def test_a_damaged_file_beside_the_model_is_told_and_not_opened(path: str, data: bytes) -> None:
    facts = inspect_bytes(model(**{path: data}))
    assert (facts.weights, facts.companions) == (("model.safetensors",), {path: Role.OTHER})
    assert [warning for warning in facts.warnings if warning.startswith(f"{path} is")] == [
        f"{path} is not part of the model: stored, and not run.",
        reason_of({path: data}),
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors", "other.safetensors"])
def test_a_damaged_file_of_the_model_is_refused(name: str) -> None:
    files = CONFIG | (SHARDS if "00001" in name else {})
    assert reason_of(files | {name: b"x"}) == f"{name} is truncated; export it and push it again."
    assert reason_of(files | index(WEIGHT_MAP) | {name: b"x"}) is not None


def test_a_damaged_file_that_is_named_as_the_model_is_refused() -> None:
    with pytest.raises(ModelRejectedError, match=r"^extra\.safetensors is truncated"):
        inspect_bytes(model(**{"extra.safetensors": b"x"}), file="extra.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "m.gguf", "config.json", "tokenizer.json"])
def test_what_git_leaves_in_place_of_a_large_file_is_told(name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    files = {name: pointer} if name == "m.gguf" else model(**{name: pointer})
    told = f"{name} is a pointer of Git LFS, not the file itself; run `git lfs pull` and push again."
    assert reason_of(files) == told


def test_an_index_that_lacks_shards_is_refused_of_the_model_alone() -> None:
    stale = {f"old/{name}": data for name, data in (CONFIG | index(WEIGHT_MAP) | {"x.safetensors": WEIGHTS}).items()}
    facts = inspect_bytes(model(**stale))
    assert (facts.weights, facts.choices) == (("model.safetensors",), ())
    with pytest.raises(ModelRejectedError, match="which is missing"):
        inspect_bytes(model(**stale), file="old/x.safetensors")


@pytest.mark.parametrize("prefix", ["model-part", "model-0000", "shard_", "MODEL-"])
def test_files_that_share_the_tensors_are_one_model_whatever_their_numbers(prefix: str) -> None:
    parts = {f"{prefix}{n}.safetensors": data for n, data in enumerate(SHARDS.values(), start=1)}
    facts = inspect_bytes(CONFIG | parts)
    assert (facts.parameters, facts.weights) == (5, tuple(parts))


def test_an_index_may_write_its_shards_as_paths_and_names_none_elsewhere() -> None:
    dotted = {name: f"./{shard}" for name, shard in WEIGHT_MAP.items()}
    assert inspect_bytes(CONFIG | SHARDS | index(dotted)).weights == tuple(SHARDS)
    elsewhere = {name: f"parts/{shard}" for name, shard in WEIGHT_MAP.items()}
    shards = {f"parts/{name}": data for name, data in SHARDS.items()}
    top = {"model-00003.safetensors": safetensors_file({"c": ("F32", [1])})}
    reason = reason_of(CONFIG | shards | top | index(elsewhere))
    assert reason is not None
    assert "in another folder; put the shards next to the index" in reason


@pytest.mark.parametrize(
    ("named", "weights"),
    [
        ("model.fp16.safetensors", "model.fp16.safetensors"),
        ("model.fp16.safetensors.index.json", "model.safetensors"),
        ("nowhere.safetensors", "model.safetensors"),
        ("../model.fp16.safetensors", "model.safetensors"),
        (5, "model.safetensors"),
        (None, "model.safetensors"),
    ],
)
def test_weights_that_the_config_names_are_the_model(named: Any, weights: str) -> None:
    files = model(LLAMA | {"transformers_weights": named}) | {"model.fp16.safetensors": WEIGHTS}
    facts = inspect_bytes(files)
    assert (facts.weights, len(facts.choices)) == ((weights,), 2)
