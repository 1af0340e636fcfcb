"""Adapters by themselves are refused as what they are; a whole model with one beside or within it is not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from modelshare.server.registry.inspection.facts import Role
from unit.registry.samples import gguf_file, inspect_bytes, reason_of, safetensors_file

CONFIG = {"config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'}
WEIGHT = "model.layers.0.self_attn.q_proj.weight"
PEFT = "base_model.model.model.layers.0.self_attn.q_proj"
F32 = ("F32", [2])


def tensors(*names: str) -> bytes:
    return safetensors_file(dict.fromkeys(names, F32))


def peft_config(**fields: Any) -> bytes:
    return json.dumps({"peft_type": "LORA", "base_model_name_or_path": "acme/base"} | fields).encode()


KINDS = {
    "LoRA of PEFT": (f"{PEFT}.lora_A.weight", f"{PEFT}.lora_B.weight"),
    "LoRA that trained the head too": (f"{PEFT}.lora_A.weight", "base_model.model.lm_head.weight"),
    "LoRA of embeddings": (f"{PEFT}.lora_embedding_A", f"{PEFT}.lora_embedding_B"),
    "DoRA": (f"{PEFT}.lora_A.weight", f"{PEFT}.lora_magnitude_vector"),
    "IA3": (f"{PEFT}.ia3_l",),
    "LoHa": ("layers.0.q.hada_w1_a", "layers.0.q.hada_w1_b", "layers.0.q.alpha"),
    "LoKr": ("layers.0.q.lokr_w1", "layers.0.q.lokr_w2_a"),
    "OFT": ("layers.0.q.oft_R",),
    "VeRA": (f"{PEFT}.vera_lambda_b", f"{PEFT}.vera_lambda_d"),
    "prompts": ("prompt_embeddings",),
    "LoRA of diffusers": ("unet.down_blocks.0.to_q.lora_A.weight", "unet.down_blocks.0.to_q.lora_B.weight"),
    "older LoRA of diffusers": ("unet.to_q.lora_linear_layer.down.weight", "unet.to_q.lora_linear_layer.up.weight"),
    "LoRA of kohya": ("lora_unet_to_q.lora_down.weight", "lora_unet_to_q.lora_up.weight", "lora_unet_to_q.alpha"),
    "LoRA of diffusers' processors": ("unet.to_q.processor.to_q_lora.down.weight", "unet.to_q.lora.up.weight"),
}


@pytest.mark.parametrize("names", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("beside", [{}, CONFIG], ids=["alone", "with a config.json"])
def test_adapter_is_refused_whatever_its_file_is_called(names: tuple[str, ...], beside: Mapping[str, bytes]) -> None:
    reason = reason_of({"model.safetensors": tensors(*names)} | dict(beside))
    assert reason is not None
    assert reason.startswith("model.safetensors is an adapter, not a model by itself; merge it into its base model")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "model.safetensors", "sub/weights.safetensors"])
def test_base_is_named_as_the_adapters_configuration_names_it(name: str) -> None:
    config = f"{name.rpartition('/')[0]}/adapter_config.json".lstrip("/")
    files = {name: tensors("anything.at.all"), config: peft_config()}
    expected = (
        f"{name} is an adapter, not a model by itself; merge it into its base model, acme/base, and push the result."
    )
    assert reason_of(files) == expected


@pytest.mark.parametrize(
    ("config", "card", "base"),
    [
        (b"{", b"---\nbase_model: acme/card\n---\n", "acme/card"),
        (peft_config(base_model_name_or_path=None), b"---\nbase_model: [acme/card, b]\n---\n", "acme/card"),
        (peft_config(base_model_name_or_path=5), b"", None),
        (peft_config(base_model_name_or_path="a\x00\n\x1b[31m" + "x" * 900), b"", "a [31mxxx"),
        (b"", b"", None),
    ],
)
def test_base_is_shown_where_one_is_known(config: bytes, card: bytes, base: str | None) -> None:
    reason = reason_of({"adapter_model.safetensors": tensors("a"), "adapter_config.json": config, "README.md": card})
    assert reason is not None
    assert (f"its base model, {base}" if base else "its base model and push") in reason


def test_whole_model_with_an_adapter_beside_or_within_it_is_the_model() -> None:
    beside = {"adapter_model.safetensors": tensors("a"), "adapter_config.json": peft_config()}
    facts = inspect_bytes(CONFIG | {"model.safetensors": tensors(WEIGHT)} | beside)
    assert facts.weights == ("model.safetensors",)
    assert facts.companions["adapter_model.safetensors"] is Role.ADAPTER
    within = tensors(WEIGHT, "model.layers.0.self_attn.q_proj.lora_A.vision.weight")
    assert inspect_bytes(CONFIG | {"model.safetensors": within}).parameters == 4


def written(path: Path, architecture: str = "llama") -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((4, 8), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.ones((8, 4), np.float32))
    return writer


@pytest.mark.parametrize(
    ("stated", "base"),
    [
        ({"repo_url": "https://example.com/acme/base"}, ", https://example.com/acme/base, and"),
        ({"name": "Base", "organization": "Acme"}, ", Base of Acme, and"),
        ({"name": "Base"}, ", Base, and"),
        ({}, " and push"),
    ],
)
def test_adapter_in_gguf_names_its_base(stated: dict[str, str], base: str, tmp_path: Path) -> None:
    writer = written(tmp_path / "lora.gguf")
    writer.add_base_model_count(1)
    for key, value in stated.items():
        writer.add_string(f"general.base_model.0.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reason = reason_of({"lora.gguf": (tmp_path / "lora.gguf").read_bytes()})
    assert f"lora.gguf is an adapter, not a model by itself; merge it into its base model{base}" in (reason or "")


def test_adapter_in_gguf_is_told_by_its_tensors() -> None:
    data = gguf_file({"general.architecture": "llama"}, {"blk.0.attn_q.weight.lora_a": ("F32", [4])})
    assert "is an adapter" in (reason_of({"model.gguf": data}) or "")


def test_the_whole_file_goes_before_its_own_shards_as_transformers_looks_for_them() -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": tensors(name) for n, name in ((1, "a"), (2, "b"))}
    where = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": where}).encode()}
    facts = inspect_bytes(CONFIG | shards | index | {"model.safetensors": tensors("a", "b")})
    assert facts.weights == ("model.safetensors",)
    assert {facts.companions[shard] for shard in shards} == {Role.ALTERNATIVE}
