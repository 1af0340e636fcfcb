"""Which files of a version are the model, and what the others are."""

import json
from typing import Any

import msgspec
import pytest

from modelshare.server.registry.inspection import Facts, ModelRejectedError, Task, inspect
from modelshare.server.registry.inspection.directory import MAX_CHOICES
from modelshare.server.registry.inspection.facts import Role
from unit.registry.samples import MemoryReader, gguf_file, inspect_bytes, llama_gguf, safetensors_file

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
TENSORS = {"a": ("F32", [2]), "b": ("F32", [3])}
MODEL = {"config.json": CONFIG, "model.safetensors": safetensors_file(TENSORS)}
ADAPTER = safetensors_file(
    {"layers.0.q_proj.lora_A.weight": ("F32", [2]), "layers.0.q_proj.lora_B.weight": ("F32", [2])}
)
F32 = ("F32", [4])
LORA = {"blk.0.attn_q.weight.lora_a": F32, "blk.0.attn_q.weight.lora_b": F32}
MATRIX = {"blk.0.attn_q.weight.in_sum2": F32, "blk.0.attn_q.weight.counts": F32}
PROJECTOR = {"v.patch_embd.weight": F32, "mm.0.weight": F32}


def index(weight_map: dict[str, str]) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


@pytest.mark.parametrize(
    ("stray", "role"),
    [
        pytest.param(gguf_file({"general.type": "imatrix"}, MATRIX), Role.IMATRIX, id="a matrix by its statement"),
        pytest.param(gguf_file({}, MATRIX), Role.IMATRIX, id="a matrix that states nothing"),
        pytest.param(gguf_file({"general.architecture": "llama"}, MATRIX), Role.IMATRIX, id="a matrix as a model"),
        pytest.param(gguf_file({"general.architecture": "llama"}, LORA), Role.ADAPTER, id="an adapter as a model"),
        pytest.param(gguf_file({"general.type": "adapter"}, {}), Role.ADAPTER, id="an adapter without tensors"),
        pytest.param(gguf_file({"general.architecture": "llama"}, PROJECTOR), Role.PROJECTOR, id="a projector"),
        pytest.param(gguf_file({"general.type": "mmproj"}, {"x": F32}), Role.PROJECTOR, id="a projector by statement"),
        pytest.param(gguf_file({"general.architecture": "llama"}, {}), Role.VOCABULARY, id="a vocabulary"),
        pytest.param(gguf_file({}, {}), Role.VOCABULARY, id="nothing at all"),
        pytest.param(gguf_file({}, {"x": F32}), Role.OTHER, id="tensors that nobody knows"),
        pytest.param(gguf_file({}, {"direction.1": F32}), Role.CONTROL_VECTOR, id="a control vector"),
        pytest.param(gguf_file({}, LORA)[:-9], Role.ADAPTER, id="an adapter that is cut short"),
        pytest.param(gguf_file({"general.alignment": 33}, MATRIX), Role.OTHER, id="metadata that nobody reads"),
        pytest.param(b"notes", Role.OTHER, id="no GGUF at all"),
        pytest.param(b"", Role.OTHER, id="an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["a.gguf", "z/0.gguf"])
def test_a_stray_gguf_is_named_and_never_the_model(stray: bytes, role: Role, name: str) -> None:
    facts = inspect_bytes({"model.gguf": llama_gguf(), name: stray})
    assert (facts.weights, facts.companions, facts.choices) == (("model.gguf",), {name: role}, ())
    assert facts.warnings[0].startswith(name)


@pytest.mark.parametrize("name", ["imatrix.gguf", "my-lora.gguf", "mmproj-f16.gguf", "vocab.gguf"])
def test_a_name_tells_what_a_file_is_that_cannot_be_read(name: str) -> None:
    assert inspect_bytes({"model.gguf": llama_gguf(), name: llama_gguf()[:-999]}).companions[name] is not Role.OTHER


@pytest.mark.parametrize("name", ["z.gguf", "a-00001-of-00002.gguf"])
def test_a_damaged_model_beside_another_is_refused(name: str) -> None:
    with pytest.raises(ModelRejectedError, match=name):
        inspect_bytes({"model.gguf": llama_gguf(), name: llama_gguf()[:-999]})


@pytest.mark.parametrize(
    ("files", "because"),
    [
        ({"a.gguf": gguf_file({}, LORA)}, r"a\.gguf is an adapter, not a model by itself; merge it into its base"),
        ({"a.gguf": gguf_file({}, MATRIX)}, r"a\.gguf is a calibration matrix"),
        ({"a.gguf": gguf_file({}, PROJECTOR)}, "push it together with the model"),
        ({"model.safetensors": ADAPTER}, r"model\.safetensors is an adapter"),
    ],
)
def test_companions_alone_are_refused_as_what_they_are(files: dict[str, bytes], because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because):
        inspect_bytes(files)


def test_of_several_quantizations_the_first_by_folder_and_name_is_the_model() -> None:
    loop, chat = llama_gguf(), llama_gguf(**{"general.file_type": 7, "tokenizer.chat_template": "x"})
    facts = inspect_bytes({"Q4-XL/model.gguf": chat, "Q4/model.gguf": loop, "a/deep/er.gguf": chat})
    assert (facts.root, facts.weights) == ("Q4", ("Q4/model.gguf",))
    assert [(each.file, each.root, each.quantization) for each in facts.choices] == [
        ("Q4/model.gguf", "Q4", "Q4_K_M"),
        ("Q4-XL/model.gguf", "Q4-XL", "Q8_0"),
        ("a/deep/er.gguf", "a/deep", "Q8_0"),
    ]
    assert set(facts.companions.values()) == {Role.ALTERNATIVE}
    assert "Of 3 models here, Q4/model.gguf is the one described and run" in facts.warnings[0]
    assert facts.choices[0].parameters == facts.parameters


def test_the_model_can_be_named() -> None:
    files = {"a.gguf": llama_gguf(), "b.gguf": llama_gguf(**{"general.file_type": 7}), "v.gguf": gguf_file({}, {})}
    facts = inspect_bytes(files, file="b.gguf")
    assert (facts.weights, facts.quantization) == (("b.gguf",), "Q8_0")
    assert [each.file for each in facts.choices] == ["b.gguf", "a.gguf"]
    for file in ("v.gguf", "c.gguf"):
        with pytest.raises(
            ModelRejectedError, match=f"{file}, which `file` selects, is not a model; choose one of: a.gguf, b.gguf"
        ):
            inspect_bytes(files, file=file)


def test_a_model_that_an_engine_can_serve_goes_before_one_that_none_can() -> None:
    odd = gguf_file({"general.architecture": "diffuser"}, {"x": F32})
    facts = inspect_bytes({"a.gguf": odd, "b.gguf": llama_gguf()})
    assert (facts.weights, facts.choices, facts.companions) == (("b.gguf",), (), {"a.gguf": Role.OTHER})
    assert inspect_bytes({"a.gguf": odd}).task is Task.OTHER


def test_what_lies_around_many_variants_is_read_once() -> None:
    variants = {f"model.v{n}.safetensors": safetensors_file(TENSORS) for n in range(20)}
    readers = {path: MemoryReader(data) for path, data in (MODEL | variants).items()}
    assert len(inspect(readers).choices) == 21
    assert readers["config.json"].bytes_read < 10 * len(CONFIG)


SHARDS = {
    f"{prefix}-0000{n}-of-00002.safetensors": safetensors_file({name: TENSORS[name]})
    for prefix in ("model", "model.fp16")
    for n, name in ((1, "a"), (2, "b"))
}
PLAIN = {name: data for name, data in SHARDS.items() if "fp16" not in name}
PLAIN_MAP = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
VARIANT_MAP = {name: shard.replace("model", "model.fp16") for name, shard in PLAIN_MAP.items()}
INDICES = {
    "model.safetensors.index.json": index(PLAIN_MAP),
    "model.fp16.safetensors.index.json": index(VARIANT_MAP),
}


def test_the_plain_index_goes_before_a_variants_which_can_be_chosen() -> None:
    facts = inspect_bytes({"config.json": CONFIG} | SHARDS | INDICES)
    assert facts.weights == tuple(PLAIN)
    assert facts.companions["model.fp16-00001-of-00002.safetensors"] is Role.ALTERNATIVE
    assert facts.companions["model.fp16.safetensors.index.json"] is Role.ALTERNATIVE
    assert [each.file for each in facts.choices] == [
        "model-00001-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors",
    ]
    named = inspect_bytes({"config.json": CONFIG} | SHARDS | INDICES, file="model.fp16.safetensors.index.json")
    assert named.weights[0] == "model.fp16-00001-of-00002.safetensors"
    assert named.companions["model.safetensors.index.json"] is Role.ALTERNATIVE


@pytest.mark.parametrize(
    ("files", "weights", "companions"),
    [
        pytest.param(
            MODEL | {"model.safetensors.index.json": index(PLAIN_MAP)},
            ("model.safetensors",),
            {"model.safetensors.index.json": Role.INDEX},
            id="an index of shards that were merged",
        ),
        pytest.param(
            MODEL | {"model.fp16.safetensors.index.json": index(VARIANT_MAP)},
            ("model.safetensors",),
            {"model.fp16.safetensors.index.json": Role.INDEX},
            id="an index of a variant that is not here",
        ),
        pytest.param(
            {"config.json": CONFIG} | PLAIN | INDICES | {"model.fp16.safetensors": MODEL["model.safetensors"]},
            tuple(PLAIN),
            {"model.fp16.safetensors": Role.ALTERNATIVE, "model.fp16.safetensors.index.json": Role.INDEX},
            id="a variant in one file, its index stale",
        ),
        pytest.param(
            MODEL | {"adapter_model.safetensors": ADAPTER, "adapter_config.json": b"{}"},
            ("model.safetensors",),
            {"adapter_model.safetensors": Role.ADAPTER, "adapter_config.json": Role.ADAPTER},
            id="an adapter beside its base",
        ),
        pytest.param(
            {"a.safetensors": ADAPTER} | {f"m/{name}": data for name, data in MODEL.items()},
            ("m/model.safetensors",),
            {"a.safetensors": Role.ADAPTER},
            id="an adapter above its base",
        ),
        pytest.param(
            MODEL | {"consolidated.safetensors": safetensors_file({"c": ("F32", [9])})},
            ("model.safetensors",),
            {"consolidated.safetensors": Role.OTHER},
            id="the same weights under other names",
        ),
        pytest.param(
            MODEL | {"onnx/model.onnx": b"x", "openvino/model.bin": b"x", "openvino/model.xml": b"x"},
            ("model.safetensors",),
            {"onnx/model.onnx": Role.OTHER, "openvino/model.bin": Role.OTHER},
            id="weights for other programs",
        ),
        pytest.param({"config.json": CONFIG} | PLAIN, tuple(PLAIN), {}, id="shards without an index"),
        pytest.param(
            {"config.json": CONFIG, "x.safetensors": MODEL["model.safetensors"], "y.safetensors": ADAPTER},
            ("x.safetensors",),
            {"y.safetensors": Role.ADAPTER},
            id="a name of its own",
        ),
    ],
)
def test_what_lies_beside_safetensors(
    files: dict[str, bytes], weights: tuple[str, ...], companions: dict[str, Role]
) -> None:
    facts = inspect_bytes(files)
    assert (facts.weights, facts.companions) == (weights, companions)


def test_a_model_below_the_folder_that_was_pushed_says_where() -> None:
    facts = inspect_bytes({"README.md": b"# x"} | {f"tiny/{name}": data for name, data in MODEL.items()})
    assert (facts.root, facts.weights, facts.architecture) == ("tiny", ("tiny/model.safetensors",), "LlamaForCausalLM")


def test_checkpoints_in_folders_are_choices_that_bring_their_own_config() -> None:
    config = CONFIG.replace(b"}", b', "max_position_embeddings": 512}')
    files = MODEL | {"checkpoint-9/config.json": config, "checkpoint-9/model.safetensors": MODEL["model.safetensors"]}
    facts = inspect_bytes(files | {"broken/config.json": b"{", "broken/model.safetensors": MODEL["model.safetensors"]})
    assert (facts.root, facts.weights) == ("", ("model.safetensors",))
    assert [(each.root, each.context_length) for each in facts.choices] == [("", None), ("checkpoint-9", 512)]
    assert facts.companions["broken/model.safetensors"] is Role.OTHER


def sentence_files(*modules: tuple[str, str]) -> dict[str, bytes]:
    listed: list[dict[str, Any]] = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules
    ]
    return {"modules.json": json.dumps(listed).encode()}


DENSE = {
    "in_features": 2,
    "out_features": 3,
    "bias": True,
    "activation_function": "torch.nn.modules.linear.Identity",
}


def test_modules_say_where_the_transformer_and_its_layers_lie() -> None:
    weights = MODEL["model.safetensors"]
    files = sentence_files(("0_Transformer", "Transformer"), ("dense", "Dense")) | {
        "0_Transformer/config.json": CONFIG,
        "0_Transformer/model.safetensors": weights,
        "dense/config.json": json.dumps(DENSE).encode(),
        "dense/model.safetensors": weights,
        "2_Dense/model.safetensors": weights,
    }
    for above in ("", "m/"):
        facts = inspect_bytes({above + path: data for path, data in files.items()})
        assert (facts.root, facts.task) == (above.rstrip("/"), Task.EMBEDDING)
        assert facts.weights == (f"{above}0_Transformer/model.safetensors", f"{above}dense/model.safetensors")
        assert facts.companions == {f"{above}2_Dense/model.safetensors": Role.OTHER}


def test_roles_survive_json() -> None:
    facts = inspect_bytes({"b.gguf": llama_gguf(), "a.gguf": llama_gguf(), "v.gguf": gguf_file({}, {})})
    assert msgspec.convert(json.loads(json.dumps(facts.to_dict())), Facts) == facts


def test_facts_from_before_roles_can_be_read() -> None:
    fields = inspect_bytes(MODEL).to_dict()
    for name in ("root", "companions", "choices"):
        del fields[name]
    assert msgspec.convert(fields, Facts).weights == ("model.safetensors",)


def test_the_last_of_very_many_models_can_be_named() -> None:
    files = {f"m{n:03}.gguf": llama_gguf() for n in range(MAX_CHOICES + 6)}
    facts = inspect_bytes(files, file="m069.gguf")
    assert (facts.weights, len(facts.choices)) == (("m069.gguf",), MAX_CHOICES)


def test_a_damaged_safetensors_does_not_stand_in_the_way_of_a_gguf() -> None:
    facts = inspect_bytes({"model.gguf": llama_gguf(), "a.safetensors": b"x"})
    assert (facts.weights, facts.companions) == (("model.gguf",), {"a.safetensors": Role.OTHER})


def test_a_gguf_without_a_context_length_is_warned_of() -> None:
    facts = inspect_bytes({"flux.gguf": gguf_file({"general.architecture": "flux"}, {"x": F32})})
    assert "does not set flux.context_length" in facts.warnings[0]
