"""Files that hold anything: a model is converted, or a sentence says why not, and a tenant reads no Python."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelshare.agent.convert import cache
from modelshare.agent.convert.cache import to_gguf, unconvertible
from modelshare.agent.convert.gguf_file import WeightType, convert
from modelshare.agent.convert.values import ConversionError, number
from modelshare.agent.convert.values import whole as whole_number
from modelshare.agent.engines.base import EngineError, Task
from modelshare.demo import tiny_model

PYTHON = re.compile(r"Error\b|Exception|Traceback|NoneType|object at|argument|\bdict\b|\bint\b|File \"|/")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "silu", "2048"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    *("architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_scaling", "rope_parameters"),
    *("rope_theta", "sliding_window", "tie_word_embeddings", "attention_bias", "hidden_act", "quantization_config"),
    *("partial_rotary_factor", "bos_token_id", "eos_token_id"),
)
FAMILIES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny_model.write_hf(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found convertible is converted, but for what only the work itself shows; and all is told in words."""
    foreseen = True

    def unforeseen(*_: object) -> None:
        nonlocal foreseen
        foreseen = False

    monkeypatch.setattr(cache._log, "exception", unforeseen)
    told = unconvertible(folder, Task.CHAT)
    assert foreseen, "a rule stumbled"
    try:
        if told is None:
            convert(folder, folder / "out.gguf", WeightType.F16)
    except ConversionError as error:
        told = str(error)
    assert told is None or told.endswith(".")
    assert not PYTHON.search(told or "")


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), 1e300, 0.5, True, "8", [8]])
def test_no_number_is_too_odd_for_a_sentence(value: object) -> None:
    with pytest.raises(ConversionError, match=r"its n is .*, but must be a whole number from 1"):
        whole_number({"n": value}, "n")
    if value != 0.5:
        with pytest.raises(ConversionError, match=r"its n is .*, but must be a positive number"):
            number({"n": value}, "n")


@FAMILIES
@given(changes=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
def test_any_config(changes: dict[str, Any], whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((whole / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    judged(folder, monkeypatch)


@FAMILIES
@given(
    key=st.sampled_from(["model", "pre_tokenizer", "normalizer", "added_tokens"]),
    value=VALUES,
    inner=st.sampled_from(["type", "merges", "vocab", "pretokenizers", "pattern", None]),
)
def test_any_tokenizer(
    key: str, value: Any, inner: str | None, whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = json.loads((whole / "tokenizer.json").read_text())
    tokenizer[key] = {**tokenizer[key], inner: value} if inner and isinstance(tokenizer[key], dict) else value
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    judged(folder, monkeypatch)


@FAMILIES
@given(data=st.data())
def test_any_header(data: st.DataObject, whole: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = (whole / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    match data.draw(st.sampled_from(["drop", "rename", "dtype", "shape", "data_offsets", "entry", "text"])):
        case "drop":
            del header[name]
        case "rename":
            header[data.draw(st.sampled_from(["x", "model.x.weight", "lm_head.bias", "model.model.norm"]))] = (
                header.pop(name)
            )
        case "entry":
            header[name] = data.draw(VALUES)
        case "text":
            header = data.draw(VALUES)
        case field if name != "__metadata__":
            sizes = st.lists(st.integers(-3, 600), max_size=3)
            header[name][field] = data.draw(sizes | st.sampled_from(["F64", "F16", "BF16", "I64", "F8_E4M3"]) | VALUES)
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])
    judged(folder, monkeypatch)


@pytest.mark.anyio
async def test_a_converter_that_fails_says_nothing_of_itself(folder: Path, tmp_path: Path) -> None:
    """A file that no rule foresees."""
    (folder / "chat_template.jinja").unlink()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": [{"role": 1}]}))
    (tmp_path / "cache").mkdir()
    with pytest.raises(EngineError) as failure:
        await to_gguf(folder, tmp_path / "cache", "f16", tmp_path)
    assert str(failure.value) == "The weights cannot be converted to GGUF; see the agent's log for details."
