"""Rules for the directory as a whole, and what no damage may cause."""

import io
import json
import pickle
import tracemalloc
import zipfile
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelshare.server.registry.inspection import Facts, Format, ModelRejectedError, Task, inspect
from modelshare.server.registry.manifest import Manifest, canonical_bytes, parse
from unit.registry.samples import MemoryReader, inspect_bytes, llama_gguf, safetensors_file

CONFIG = json.dumps(
    {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 64}
).encode()
WEIGHTS = safetensors_file({"a": ("F32", [2, 3])})
MODEL = {"config.json": CONFIG, "model.safetensors": WEIGHTS}


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return buffer.getvalue()


def numpy_file(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


PICKLED = pickle.dumps({"a": 1})
OBJECTS = numpy_file(np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        *(
            (f"model{ext}", b"anything")
            for ext in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".PT")
        ),
        ("pytorch_model.bin", torch_zip()),
        ("deep/in/training_args.bin", PICKLED),
        ("model.pth.tar", b"x"),
        ("weights", torch_zip()),
        ("weights.dat", PICKLED),
        ("openvino.bin", PICKLED),
        ("array.npy", OBJECTS),
    ],
)
def test_pickles_are_refused_by_name_and_by_content(path: str, data: bytes) -> None:
    with pytest.raises(ModelRejectedError, match="is a Python pickle, which can run code") as caught:
        inspect_bytes(MODEL | {path: data})
    assert caught.value.reason.startswith(path)
    assert inspect_bytes(MODEL | {path: data}, allow_pickle=True).format is Format.SAFETENSORS


def test_refusal_counts_the_others() -> None:
    with pytest.raises(ModelRejectedError, match=r"^a\.bin \(and 2 more\) is"):
        inspect_bytes(MODEL | {"a.bin": b"x", "b.pt": b"x", "c.ckpt": b"x"})


@pytest.mark.parametrize(
    "files",
    [
        {"openvino/model.bin": b"\x00\x01\x02", "openvino/model.xml": b"<net/>"},
        {"array.npy": numpy_file(np.zeros(3))},
        {"onnx/model.onnx": b"\x08\x07", "spiece.model": b"\x0a\x0e", "assets.zip": b"PK\x03\x04 other"},
    ],
)
def test_plain_data_beside_the_weights_passes(files: dict[str, bytes]) -> None:
    assert inspect_bytes(MODEL | files).parameters == 6


@pytest.mark.parametrize("name", ["model.safetensors", "m.gguf", "sub/M.GGUF"])
@pytest.mark.parametrize("data", [PICKLED, torch_zip(), pickle.dumps({}, 2)])
@pytest.mark.parametrize("allow_pickle", [True, False])
def test_pickle_under_another_name_is_always_refused(name: str, data: bytes, allow_pickle: bool) -> None:
    with pytest.raises(ModelRejectedError, match="under another name"):
        inspect_bytes(MODEL | {name: data}, allow_pickle=allow_pickle)


def test_allowed_pickle_model_is_described_by_the_files_around_it() -> None:
    facts = inspect_bytes({"config.json": CONFIG, "pytorch_model.bin": torch_zip()}, allow_pickle=True)
    assert facts.format is Format.PICKLE
    assert (facts.architecture, facts.context_length, facts.parameters) == ("LlamaForCausalLM", 64, 0)
    assert facts.weights == ("pytorch_model.bin",)
    assert facts.quantization is None
    assert "pickles" in facts.warnings[0]


@pytest.mark.parametrize("files", [{}, {"README.md": b"# x"}, {"config.json": CONFIG, "model.onnx": b"x"}])
def test_directory_without_weights_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ModelRejectedError, match="contains no weights; push one"):
        inspect_bytes(files)


def test_path_tricks_are_refused() -> None:
    with pytest.raises(ModelRejectedError, match="leave the model's folder"):
        inspect_bytes(MODEL | {"../evil": b""})


def test_safetensors_with_config_go_before_gguf_and_gguf_before_loose_ones() -> None:
    assert inspect_bytes(MODEL | {"m.gguf": llama_gguf()}).format is Format.SAFETENSORS
    assert inspect_bytes({"m.gguf": llama_gguf(), "lora.safetensors": WEIGHTS}).format is Format.GGUF


def test_weights_in_a_folder_bring_their_config_from_there() -> None:
    facts = inspect_bytes(
        {"sub/config.json": CONFIG, "sub/model.safetensors": WEIGHTS, "other/deep/x.safetensors": WEIGHTS}
    )
    assert (facts.weights, facts.architecture) == (("sub/model.safetensors",), "LlamaForCausalLM")


def test_facts_survive_json_and_fit_a_manifest() -> None:
    card = b"---\nlicense: mit\ntags: [a]\n---\nText."
    facts = inspect_bytes(MODEL | {"README.md": card})
    assert msgspec.convert(json.loads(json.dumps(facts.to_dict())), Facts) == facts
    public = facts.for_manifest()
    assert not {"card", "description", "warnings", "license"} & public.keys()
    manifest = Manifest.of(name="m", version="1.0.0", files=[], facts=public, license=facts.license, created=1)
    assert public["task"] == Task.COMPLETION
    assert parse(canonical_bytes(manifest)) == manifest


def test_odd_texts_become_storable_ones() -> None:
    config = {"architectures": ["A\x00\ud800\nB" + "x" * 1000], "model_type": "\x1b[31m", "torch_dtype": {"a": []}}
    facts = inspect_bytes(MODEL | {"config.json": json.dumps(config).encode()})
    assert facts.architecture is not None
    assert facts.architecture.startswith("A Bx")
    assert len(facts.architecture) == 100
    json.dumps(facts.to_dict(), ensure_ascii=False).encode()


SAMPLES = {
    "model.safetensors": WEIGHTS,
    "m.gguf": llama_gguf(**{"tokenizer.ggml.tokens": ["a", "bc"], "tokenizer.chat_template": "{{ x }}"}),
    "config.json": json.dumps(
        {"architectures": ["X"], "text_config": {"n_ctx": 5}, "quantization_config": {"bits": 4}}
    ).encode(),
    "tokenizer.json": b'{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": []}',
    "tokenizer_config.json": b'{"chat_template": [{"name": "default"}]}',
    "model.safetensors.index.json": b'{"weight_map": {"a": "model.safetensors"}}',
    "README.md": b"---\nlicense: mit\ntags: [a, &b c, *b]\n---\n# T\n\nText *x* [y](z).\n",
}


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, bytes]:
    """The sample directory with bytes of one file changed, cut out, put in, or replaced by telling ones."""
    name = draw(st.sampled_from(sorted(SAMPLES)))
    data = bytearray(SAMPLES[name])
    telling = [
        b"\xff" * 8,
        b"\0" * 8,
        bytes([0] * 7 + [16]),
        b"[" * 2000,
        b'{"a":',
        b"9" * 5000,
        b"\x80\x04",
        b"PK\x03\x04",
    ]
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 9))
        data[position : position + length] = draw(st.binary(max_size=9) | st.sampled_from(telling))
    return SAMPLES | {name: bytes(data)}


def test_undamaged_sample_passes() -> None:
    assert inspect_bytes(SAMPLES).has_chat_template


@settings(max_examples=500, deadline=None)
@given(damaged())
def test_damage_is_refused_or_harmless_and_never_read_past_the_end(files: dict[str, bytes]) -> None:
    reason = "none"
    try:
        facts = inspect_bytes(files)
        json.dumps(facts.to_dict(), ensure_ascii=False, allow_nan=False).encode()
    except ModelRejectedError as refused:
        reason = refused.reason
    assert reason.isprintable()
    assert len(reason) < 600


@settings(max_examples=60, deadline=None)
@given(damaged())
def test_damage_never_makes_inspection_allocate_much(files: dict[str, bytes]) -> None:
    readers = {path: MemoryReader(data) for path, data in files.items()}
    tracemalloc.start()
    try:
        inspect(readers)
    except ModelRejectedError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20
