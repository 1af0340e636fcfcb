"""What the catalog says of a version and what an agent's engine answers are one model, whatever lies beside it."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from safetensors.numpy import load, save

from agent.agents import ask, ready, running_agent, tiny_gguf
from agent.opened import desired_deployment, inspected, write
from agent.peer import Peer
from agent.support import Storage
from modelshare.agent.layout import lay_out
from modelshare.demo.tiny_model import REPLY, write_hf
from modelshare.wire.link import Answer

pytestmark = pytest.mark.anyio

SHORT = 512
"""Context of the chat model where a counting one lies beside it, which has more."""
Files = dict[str, bytes]


def gguf(
    architecture: str | None,
    metadata: Mapping[str, str],
    tensors: Mapping[str, tuple[int, ...]],
) -> bytes:
    with TemporaryDirectory() as folder:
        writer = GGUFWriter(Path(folder) / "x.gguf", architecture or "none")
        if architecture is None:
            del writer.kv_data[0]["general.architecture"]
        for key, value in metadata.items():
            writer.add_string(key, value)
        for name, shape in tensors.items():
            writer.add_tensor(name, np.ones(shape, np.float32))
        return _written(writer, Path(folder) / "x.gguf")


@cache
def rewritten(*, loop: bool, context: int | None = None, tensors: bool = True) -> bytes:
    """The tiny model with another context, or its vocabulary alone."""
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.gguf", Path(folder) / "b.gguf"
        source.write_bytes(tiny_gguf(loop=loop))
        reader, writer = GGUFReader(source), GGUFWriter(target, "llama")
        _copy_metadata(reader, writer, context)
        for tensor in reader.tensors if tensors else ():
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        return _written(writer, target)


@cache
def in_parts(*names: str) -> Mapping[str, bytes]:
    """The tiny model as llama.cpp's splitter leaves it, under these names."""
    files = {}
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.gguf", Path(folder) / "b.gguf"
        source.write_bytes(tiny_gguf(loop=False))
        reader = GGUFReader(source)
        for number, name in enumerate(names):
            writer = GGUFWriter(target, "llama")
            if number == 0:
                _copy_metadata(reader, writer)
            else:
                del writer.kv_data[0]["general.architecture"]
            writer.add_key_value("split.no", number, GGUFValueType.UINT16)
            writer.add_key_value("split.count", len(names), GGUFValueType.UINT16)
            writer.add_key_value("split.tensors.count", len(reader.tensors), GGUFValueType.INT32)
            for tensor in reader.tensors[number :: len(names)]:
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            files[name] = _written(writer, target)
    return files


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter, context: int | None = None) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        if field.types[0] is GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        elif field.name == "llama.context_length" and context:
            writer.add_context_length(context)
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])


def _written(writer: GGUFWriter, path: Path) -> bytes:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@cache
def folder_files() -> Mapping[str, bytes]:
    """The tiny model in Hugging Face's form."""
    with TemporaryDirectory() as folder:
        write_hf(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def shards(prefix: str, groups: Iterable[Iterable[str]], dtype: type) -> Files:
    weights = load(folder_files()["model.safetensors"])
    groups = [list(group) for group in groups]
    names = [f"{prefix}-{n:05}-of-{len(groups):05}.safetensors" for n in range(1, len(groups) + 1)]
    files = {
        name: save({tensor: weights[tensor].astype(dtype) for tensor in group})
        for name, group in zip(names, groups, strict=True)
    }
    where = {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group}
    files[f"{prefix}.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": where}).encode()
    return files


def two_indices() -> Files:
    """Plain shards, and a half-precision variant of two tensors whose index goes first by name."""
    names = sorted(load(folder_files()["model.safetensors"]))
    others = {name: data for name, data in folder_files().items() if name != "model.safetensors"}
    plain = shards("model", (names[::2], names[1::2]), np.float32)
    return others | plain | shards("model.fp16", (names[:1], names[1:2]), np.float16)


def without_index() -> Files:
    return {name: data for name, data in two_indices().items() if "index" not in name and "fp16" not in name}


LORA = gguf(
    "llama", {"general.type": "adapter"}, {"blk.0.attn_q.weight.lora_a": (4, 64), "blk.0.attn_q.weight.lora_b": (64, 4)}
)
MATRIX = gguf(
    None, {"general.type": "imatrix"}, {"blk.0.attn_q.weight.in_sum2": (1, 64), "blk.0.attn_q.weight.counts": (1, 1)}
)
PROJECTOR = gguf("clip", {"general.type": "mmproj"}, {"v.patch_embd.weight": (8, 8)})
CASES: dict[str, Callable[[], Files]] = {
    "quantizations in folders": lambda: {
        "Q4/model.gguf": rewritten(loop=False, context=SHORT),
        "Q4-XL/model.gguf": rewritten(loop=True),
    },
    "quantizations in folders, the other way": lambda: {
        "Q4/model.gguf": rewritten(loop=True),
        "Q4-XL/model.gguf": rewritten(loop=False, context=SHORT),
    },
    "an adapter first by name": lambda: {"adapter-f32.gguf": LORA, "model.gguf": rewritten(loop=False)},
    "a projector": lambda: {"mmproj-F16.gguf": PROJECTOR, "text-model.gguf": rewritten(loop=False)},
    "a calibration matrix": lambda: {"imatrix_calib.gguf": MATRIX, "model-Q8_0.gguf": rewritten(loop=False)},
    "a vocabulary": lambda: {
        "ggml-vocab.gguf": rewritten(loop=False, tensors=False),
        "model.gguf": rewritten(loop=False),
    },
    "parts whose names llama.cpp would not put together": lambda: (
        {**in_parts("Größe 8/M-00001-of-00002.GGUF", "Größe 8/M-00002-of-00002.gguf")}
    ),
    "two indices": two_indices,
    "shards without an index": without_index,
    "a folder above the model's": lambda: {f"tiny/{name}": data for name, data in folder_files().items()},
}


@pytest.mark.parametrize("case", CASES)
async def test_what_is_described_is_what_answers(peer: Peer, storage: Storage, tmp_path: Path, case: str) -> None:
    files = CASES[case]()
    facts = inspected(tmp_path / "pushed", files)
    for file in (choice.file for choice in facts.choices) if facts.choices else (None,):
        wanted = desired_deployment(facts, files, file)
        storage.files = {each.path: files[each.path] for each in wanted.files}
        async with running_agent(peer, storage, tmp_path / "agent"):
            await peer.want(wanted)
            await ready(peer)
            await peer.ask(ask(max_tokens=8, temperature=0))
            answer = json.loads((await peer.expect(Answer)).data)
            peer.frames.clear()
        says = answer["choices"][0]["message"]["content"]
        chats = wanted.context_length == SHORT if facts.choices else True
        assert (says == REPLY) is chats, says


def test_transformers_opens_what_is_described(tmp_path: Path) -> None:
    """Whatever the index lacks, however it writes its shards, and whatever other weights the config names."""
    transformers = pytest.importorskip("transformers")
    files = two_indices()
    index = json.loads(files["model.safetensors.index.json"])
    shards = {tensor: f"./{shard}" for tensor, shard in index["weight_map"].items()}
    config = json.loads(files["config.json"]) | {"transformers_weights": "gone.safetensors"}
    files |= {
        "model.safetensors.index.json": json.dumps({"weight_map": shards}).encode(),
        "config.json": json.dumps(config).encode(),
    }
    facts = inspected(tmp_path / "pushed", files)
    layout = lay_out(desired_deployment(facts, files))
    write(tmp_path / "laid out", {place: files[file.path] for place, file in layout.files.items()})
    layout.finish(tmp_path / "laid out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "laid out")
    decided = {name: values for path in facts.weights for name, values in load(files[path]).items()}
    loaded = model.state_dict()
    assert all(np.array_equal(loaded[name].numpy(), values) for name, values in decided.items())
