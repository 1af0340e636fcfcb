"""Conversion as a whole: the same model again, the cache, cancelling, refusals."""

import asyncio
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from modelshare.agent.convert.cache import converted_file, to_gguf, unconvertible
from modelshare.agent.convert.gguf_file import WeightType, convert
from modelshare.agent.convert.values import ConversionError
from modelshare.agent.engines.base import EngineError, Task
from modelshare.demo import tiny_model

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    tiny_model.write_hf(path)
    return path


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def test_the_tiny_model_comes_out_as_its_maker_writes_it(folder: Path, tmp_path: Path) -> None:
    tiny_model.write_gguf(tmp_path / "made.gguf")
    convert(folder, tmp_path / "converted.gguf", WeightType.F32)

    made, converted = gguf.GGUFReader(tmp_path / "made.gguf"), gguf.GGUFReader(tmp_path / "converted.gguf")
    wanted = {tensor.name: tensor.data for tensor in made.tensors}
    assert {tensor.name for tensor in converted.tensors} == wanted.keys()
    for tensor in converted.tensors:
        np.testing.assert_array_equal(tensor.data, wanted[tensor.name])
    for key in made.fields.keys() - {"GGUF.kv_count", "general.name", "general.license"}:
        assert converted.fields[key].contents() == made.fields[key].contents(), key


def test_shards_and_bfloat16(folder: Path, tmp_path: Path) -> None:
    """As large models come: several files, an index, the upper halves of float32."""
    weights = load_file(folder / "model.safetensors")
    halves = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in weights.items()}
    names = sorted(halves)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_bfloat16({name: halves[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()

    convert(folder, tmp_path / "out.gguf", WeightType.F32)

    cut = (weights["model.embed_tokens.weight"].view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(tensors(tmp_path / "out.gguf")["token_embd.weight"].data, cut)


def save_bfloat16(tensors: dict[str, NDArray[np.uint16]], path: Path) -> None:
    header, data = {}, b""
    for name, tensor in tensors.items():
        place = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": place}
        data += tensor.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


@pytest.mark.parametrize("weight_type", list(WeightType))
def test_types(weight_type: WeightType, folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "out.gguf", weight_type)

    found = tensors(tmp_path / "out.gguf")
    assert found["blk.0.ffn_up.weight"].tensor_type.name.lower() == weight_type
    assert found["blk.0.attn_norm.weight"].tensor_type is gguf.GGMLQuantizationType.F32


def test_a_value_beyond_float16_keeps_its_tensor_exact(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][0, 0] = 1e6
    save_file(weights, folder / "model.safetensors")

    convert(folder, tmp_path / "out.gguf", WeightType.F16)

    found = tensors(tmp_path / "out.gguf")
    assert found["output.weight"].tensor_type is gguf.GGMLQuantizationType.F32
    assert found["output.weight"].data[0, 0] == 1e6
    assert found["token_embd.weight"].tensor_type is gguf.GGMLQuantizationType.F16


def test_tied_embeddings_are_not_written_twice(folder: Path, tmp_path: Path) -> None:
    change(folder / "config.json", tie_word_embeddings=True)

    convert(folder, tmp_path / "out.gguf", WeightType.F16)

    assert "output.weight" not in tensors(tmp_path / "out.gguf")


async def test_the_cache_is_used(folder: Path, tmp_path: Path) -> None:
    first = await to_gguf(folder, tmp_path, "f16", tmp_path)
    shutil.rmtree(folder)

    assert await to_gguf(folder, tmp_path, "f16", tmp_path) == first


async def test_converted_weights_that_were_damaged_are_converted_again(folder: Path, tmp_path: Path) -> None:
    first = await to_gguf(folder, tmp_path, "f16", tmp_path)
    right = first.read_bytes()
    first.chmod(0o600)
    first.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))

    assert (await to_gguf(folder, tmp_path, "f16", tmp_path)).read_bytes() == right


async def test_cancelling_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    others = psutil.Process().children()
    cache = tmp_path / "cache"
    cache.mkdir()
    job = asyncio.create_task(to_gguf(folder, cache, "f16", tmp_path))
    await asyncio.wait({job}, timeout=0.1)

    job.cancel()
    await asyncio.wait({job})

    assert job.cancelled()
    assert not list(cache.iterdir())
    assert psutil.Process().children() == others


async def test_a_failure_is_told_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.surprise.weight": np.zeros(3, np.float32)}, folder / "model.safetensors")

    with pytest.raises(EngineError, match=r"converted to GGUF: The tensor model\.surprise\.weight has no"):
        await to_gguf(folder, cache, "f16", tmp_path)

    assert not list(cache.iterdir())


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()

    with pytest.raises(ConversionError, match=r"model\.safetensors is missing"):
        convert(folder, tmp_path / "out.gguf", WeightType.F16)

    assert not converted_file(tmp_path, "f16").exists()


def test_broken_json_is_a_reason(folder: Path) -> None:
    (folder / "config.json").write_text("{")

    assert unconvertible(folder, Task.CHAT) == "config.json is not valid JSON."
