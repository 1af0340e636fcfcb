"""Adapters, which modify a base model and are not models themselves: how to recognize them and find their base."""

import posixpath
import re
from collections.abc import Collection, Mapping
from typing import Final

from modelshare.server.registry.inspection.gguf import Header
from modelshare.server.registry.inspection.json_file import read_object
from modelshare.server.registry.inspection.plain import plain_text
from modelshare.server.registry.inspection.reader import RangeReader
from modelshare.server.registry.refused import ModelRejectedError

ADAPTER_CONFIG: Final = "adapter_config.json"
_CONFIG = "config.json"
_FILE = "adapter_model"  # as PEFT names it

# As PEFT, diffusers, kohya's scripts and LyCORIS name what they train: LoRA and DoRA, IA3, LoHa, LoKr, OFT and BOFT,
# VeRA, prompts.
_TENSOR = re.compile(
    r"(\.|_|^)(lora(_linear_layer|\.layers?)?[._](A|B|down|up|mid|embedding_[AB]|magnitude_vector)\b"
    r"|ia3_l\b|hada_[wt][12](_[ab])?\b|lokr_[wt][12](_[ab])?\b|(b?oft|oft_diag)_[RSrs]\b|oft_blocks\b"
    r"|vera_lambda_[bd]\b|dora_scale\b|prompt_embeddings\b)"
)
_BESIDE_TENSORS = re.compile(r"\.(alpha|diff|diff_b)$")
_PEFT_PREFIX = "base_model.model."


def is_adapter(path: str, names: Collection[str], beside: Collection[str]) -> bool:
    """Whether the safetensors file `path` is an adapter, by its tensors and the files `beside` it.

    Some whole models have adapters built in: so all tensors must be such, or lie in what PEFT puts around a model.
    """
    folder, name = posixpath.split(path)
    if posixpath.join(folder, ADAPTER_CONFIG) in beside:
        is_alone = posixpath.join(folder, _CONFIG) not in beside
        if is_alone or name.startswith(_FILE):
            return True
    return all(_is_of_adapter(each) for each in names) and any(not _BESIDE_TENSORS.search(each) for each in names)


def base_of(path: str, files: Mapping[str, RangeReader]) -> str | None:
    """The base model of the adapter in `path`; None if it names none, or no printable one."""
    config = posixpath.join(posixpath.dirname(path), ADAPTER_CONFIG)
    if config not in files:
        return None
    try:
        return plain_text(read_object(config, files[config]).get("base_model_name_or_path"))
    except ModelRejectedError:
        return None


def base_of_gguf(header: Header) -> str | None:
    """Like `base_of`, for an adapter in GGUF."""
    address = plain_text(header.text("general.base_model.0.repo_url"))
    organization = plain_text(header.text("general.base_model.0.organization"))
    name = plain_text(header.text("general.base_model.0.name"))
    return address or (f"{name} of {organization}" if name and organization else name)


def _is_of_adapter(name: str) -> bool:
    return bool(name.startswith(_PEFT_PREFIX) or _TENSOR.search(name) or _BESIDE_TENSORS.search(name))
