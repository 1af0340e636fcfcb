"""What Transformers cannot read is refused at the push, and what it reads is read here alike."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelshare.server.registry.inspection import FileReader, inspect
from unit.registry.samples import inspect_bytes, reason_of, safetensors_file

transformers = pytest.importorskip("transformers")

WEIGHTS = safetensors_file({"a": ("F32", [2, 3])})
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 400,
    "max_position_embeddings": 2048,
    **SIZES,
}


def transformers_fault(folder: Path, config: bytes) -> str | None:
    """What kind of error `AutoConfig` ends in; None where it reads the file."""
    (folder / "config.json").write_bytes(config)
    try:
        transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - it lets through whatever its parts raise
        return type(error).__name__
    return None


def refusal(config: bytes) -> str | None:
    return reason_of({"config.json": config, "model.safetensors": WEIGHTS})


def changed(**values: Any) -> bytes:
    return json.dumps(CONFIG | values).encode()


def nested(depth: int) -> bytes:
    return f'{{"model_type":"llama","x":{"[" * (depth - 1)}{"]" * (depth - 1)}}}'.encode()


@pytest.mark.parametrize(
    "config",
    [
        changed(),
        changed(logit_scale=float("inf"), other=float("nan")),
        changed(note="\ud800"),
        changed(architectures=None),
        b'{"model_type":"bert",' + changed()[1:],
        changed()[:-1] + b', "hidden_size": 128}',
        changed() + b"\n\n",
        b" " + changed(),
        nested(128),
        json.dumps(CONFIG, indent=2).replace("\n", "\r\n").encode(),
    ],
)
def test_taken_by_both(config: bytes, tmp_path: Path) -> None:
    assert (transformers_fault(tmp_path, config), refusal(config)) == (None, None)


@pytest.mark.parametrize(
    ("config", "because"),
    [
        (b"", "is empty"),
        (b" ", "not valid JSON"),
        (b"{", "not valid JSON"),
        (changed()[:-1], "not valid JSON"),
        (changed() + b"{}", "not valid JSON"),
        (changed()[:-1] + b",}", "not valid JSON"),
        (b"\xef\xbb\xbf" + changed(), "byte order mark"),
        (changed().decode().encode("utf-16"), "not UTF-8"),
        (b'{"model_type":"llama","note":"\xe9"}', "not UTF-8"),
        (b'{"model_type":"llama","note":"\t"}', "not valid JSON"),
        (b'{"model_type":"llama","note":-Nan}', "not valid JSON"),
        (b"{'model_type':'llama'}", "not valid JSON"),
        (b"null", "not an object"),
        (b"[]", "not an object"),
        (b'"model_type"', "not an object"),
        (b'{"model_type":"llama","x":' + b"9" * 5000 + b"}", "too many digits"),
        (nested(2000), "nested too deeply"),
        (changed(model_type=5), "model_type to 5, but loaders need a text"),
        (changed(model_type=["llama"]), "model_type"),
        (changed(hidden_size="64"), 'hidden_size to "64", but loaders need a whole number'),
        (changed(hidden_size=64.5), "hidden_size"),
        (changed(hidden_size=True), "hidden_size"),
        (changed(hidden_size=float("nan")), "hidden_size to NaN"),
        (changed(num_hidden_layers={}), "num_hidden_layers"),
        (changed(num_attention_heads="4"), "num_attention_heads"),
        (changed(vocab_size="400"), "vocab_size"),
        (changed(max_position_embeddings="2048"), "max_position_embeddings"),
        (changed(max_position_embeddings={"x": 1}), "max_position_embeddings"),
        (changed(max_position_embeddings=2048.5), "max_position_embeddings to 2048.5"),
        (changed(max_position_embeddings=float("nan")), "max_position_embeddings to NaN"),
        (changed(max_position_embeddings=float("inf")), "max_position_embeddings to Infinity"),
        (changed(max_position_embeddings=True), "max_position_embeddings to true"),
        (changed(max_position_embeddings=[2048]), "max_position_embeddings to [2048]"),
        (changed(num_key_value_heads="4"), 'num_key_value_heads to "4"'),
        (changed(head_dim="16"), "head_dim"),
        (changed(head_dim=16.5), "head_dim"),
    ],
)
def test_refused_by_both(config: bytes, because: str, tmp_path: Path) -> None:
    reason = refusal(config)
    assert reason is not None
    assert because in reason
    assert reason.startswith("config.json ")
    assert transformers_fault(tmp_path, config) is not None


@pytest.mark.parametrize("config", [changed(hidden_size=-64), changed(hidden_size=10**300), nested(129)])
def test_refused_though_transformers_reads_it(config: bytes, tmp_path: Path) -> None:
    """No engine can hold such sizes; the depth is the bound of the readers in Rust."""
    assert refusal(config) is not None
    assert transformers_fault(tmp_path, config) is None


def test_served_though_transformers_refuses_it(tmp_path: Path) -> None:
    """The converter for llama.cpp reads it; the owner is warned that other engines do not."""
    config = changed(max_position_embeddings=2048.0)
    facts = inspect_bytes({"config.json": config, "model.safetensors": WEIGHTS})
    assert facts.context_length == 2048
    assert "2048.0, read here as 2048" in facts.warnings[0]
    assert transformers_fault(tmp_path, config) == "StrictDataclassFieldValidationError"


def test_last_of_a_repeated_key_counts(tmp_path: Path) -> None:
    config = changed()[:-1] + b', "max_position_embeddings": 77}'
    facts = inspect_bytes({"config.json": config, "model.safetensors": WEIGHTS})
    (tmp_path / "config.json").write_bytes(config)
    assert facts.context_length == transformers.AutoConfig.from_pretrained(tmp_path).max_position_embeddings == 77


@pytest.mark.parametrize("model_type", ["llama", "bert", "gpt2", "qwen2", "qwen3_moe", "gemma3_text", "mistral", "t5"])
def test_configuration_as_transformers_saves_it(model_type: str, tmp_path: Path) -> None:
    transformers.AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    facts = inspect({path.name: FileReader(path) for path in tmp_path.iterdir()})
    assert (facts.model_type, facts.warnings) == (model_type, ())


TELLING = [
    b"",
    b"NaN",
    b"-0",
    b"1e400",
    b"[[[[",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
    b'"',
    b",",
    b"}",
    b"0",
    b"//",
]
EDITS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4), st.sampled_from(TELLING)), min_size=1, max_size=3)
READ_BY_VALUE = {"StrictDataclassFieldValidationError", "StrictDataclassClassValidationError", "ValueError"}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(edits=EDITS)
def test_verdict_on_damaged_files_is_that_of_transformers(
    edits: list[tuple[int, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Values that its classes check one by one apart: an engine may serve the model without that class."""
    config = bytearray(changed())
    for position, length, replacement in edits:
        config[position : position + length] = replacement
    fault = transformers_fault(tmp_path_factory.getbasetemp(), bytes(config))
    reason = refusal(bytes(config))
    if reason is not None:
        assert fault is not None
    elif fault is not None:
        assert fault in READ_BY_VALUE
