"""Whatever lies beside a model: what inspection describes is what engines find, and what the converter reads."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.opened import desired_deployment, inspected, write
from modelshare.agent.convert.headers import open_weights
from modelshare.agent.layout import lay_out
from modelshare.server.registry.inspection import Format
from unit.registry.samples import gguf_file, llama_gguf, safetensors_file

NAMES = ("a", "b", "c")
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
ADAPTER = safetensors_file({"q.lora_A.weight": ("F32", [2]), "q.lora_B.weight": ("F32", [2])})
F32 = ("F32", [4])
STRAYS: Mapping[str, bytes] = {
    "imatrix.gguf": gguf_file({"general.type": "imatrix"}, {"x.in_sum2": F32, "x.counts": F32}),
    "0.gguf": gguf_file({}, {"x.lora_a": F32, "x.lora_b": F32}),
    "mmproj-F16.gguf": gguf_file({"general.architecture": "clip"}, {"v.x": F32}),
    "vocab.gguf": gguf_file({"general.architecture": "llama"}, {}),
    "adapter_model.safetensors": ADAPTER,
    "adapter_config.json": b"{}",
    "model.onnx": b"x",
    "README.md": b"# Tiny",
}
FOLDERS = st.sampled_from(["", "Q4", "Q4-XL", "Q4/deep", "tiny"])


def shards(prefix: str, dtype: str, size: int, *, split: bool, index: bool) -> dict[str, bytes]:
    """The weights of one form of the model: in one file, or in two with or without an index."""
    if not split:
        return {f"{prefix}.safetensors": safetensors_file({name: (dtype, [size]) for name in NAMES})}
    files = {f"{prefix}-0000{n}-of-00002.safetensors": NAMES[n - 1 :: 2] for n in (1, 2)}
    where = {name: file for file, names in files.items() for name in names}
    found = {file: safetensors_file({name: (dtype, [size]) for name in names}) for file, names in files.items()}
    if index:
        found[f"{prefix}.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return found


@st.composite
def versions(draw: st.DrawFn) -> dict[str, bytes]:
    """Folders as people push them, with at least one model among the files."""
    files: dict[str, bytes] = {}

    def add(folder: str, some: Mapping[str, bytes]) -> None:
        files.update({f"{folder}/{name}" if folder else name: data for name, data in some.items()})

    for n in range(draw(st.integers(0, 3))):
        model = llama_gguf(**{"llama.context_length": 100 + n, "general.file_type": draw(st.sampled_from([1, 7, 15]))})
        add(draw(FOLDERS), {f"{draw(st.sampled_from('mz'))}{n}.gguf": model})
    for n in range(draw(st.integers(0 if files else 1, 2))):
        folder, size = draw(FOLDERS), 10 + n
        forms = draw(st.sets(st.sampled_from(["model", "model.fp16", "other"]), min_size=1))
        for form in sorted(forms):
            dtype = "F16" if form == "model.fp16" else "F32"
            split, index = draw(st.booleans()), draw(st.booleans())
            add(folder, shards(form, dtype, size, split=split, index=index))
        named = draw(st.sampled_from([None, "model.fp16.safetensors", "other.safetensors.index.json", "gone"]))
        add(folder, {"config.json": json.dumps(CONFIG | {"transformers_weights": named}).encode()})
    for stray in draw(st.sets(st.sampled_from(sorted(STRAYS)))):
        add(draw(FOLDERS), {stray: STRAYS[stray]})
    return files


@settings(max_examples=120, deadline=None)
@given(versions())
def test_what_is_described_is_what_is_opened(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as pushed:
        facts = inspected(Path(pushed), files)
    for choice in facts.choices or (None,):
        described: Any = choice or facts
        wanted = desired_deployment(facts, files, choice.file if choice else None)
        assert (wanted.context_length, tuple(wanted.weights)) == (described.context_length, described.weights)
        layout = lay_out(wanted)
        with tempfile.TemporaryDirectory() as laid_out:
            folder = Path(laid_out)
            write(folder, {place: files[file.path] for place, file in layout.files.items()})
            layout.finish(folder)
            weights = {
                path.relative_to(folder).as_posix()
                for path in folder.rglob("*")
                if path.suffix in {".gguf", ".safetensors"}
            }
            assert weights == set(layout.weights)
            assert not list(folder.rglob("adapter_config.json"))
            assert [(folder / place).read_bytes() for place in layout.weights] == [
                files[path] for path in described.weights
            ]
            if described.format is Format.SAFETENSORS:
                read = open_weights(folder)
                assert sorted(tensor.name for tensor in read) == sorted(NAMES)
                assert sum(tensor.shape[0] for tensor in read) == described.parameters
                assert {tensor.dtype for tensor in read} == {described.quantization}
