"""Where pickles are allowed, those that import what can do harm are refused by the import's name."""

import collections
import io
import os
import pickle
import subprocess
import zipfile
from typing import Any

import pytest

from modelshare.server.registry.refused import ModelRejectedError
from unit.registry.samples import inspect_bytes

CONFIG = b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._called = function, arguments

    def __reduce__(self) -> Any:
        return self._called


def in_zip(data: bytes) -> bytes:
    """As `torch.save` has it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", data)
        archive.writestr("model/data/0", b"weights")
    return buffer.getvalue()


def inspected(name: str, data: bytes) -> None:
    inspect_bytes({"config.json": CONFIG, name: data}, allow_pickle=True)


HARMLESS = pickle.dumps({"weight": [1.0, 2.0], "names": collections.OrderedDict(a=1)})


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "model.ckpt"])
@pytest.mark.parametrize("packed", [False, True])
def test_harmless_ones_pass(name: str, packed: bool) -> None:
    inspected(name, in_zip(HARMLESS) if packed else HARMLESS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(Calls(os.system, "true"), "system", id="os"),
        pytest.param(Calls(subprocess.Popen, ["true"]), "Popen", id="subprocess"),
        pytest.param(Calls(eval, "1"), "eval", id="eval"),
        pytest.param([1, {"x": Calls(exec, "1")}], "exec", id="nested"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_dangerous_ones_are_refused_with_the_import(call: Any, words: str, packed: bool, protocol: int) -> None:
    data = pickle.dumps(call, protocol)
    with pytest.raises(ModelRejectedError, match=words):
        inspected("pytorch_model.bin", in_zip(data) if packed else data)


def test_what_would_run_before_it_breaks_is_refused() -> None:
    with pytest.raises(ModelRejectedError, match="system"):
        inspected("model.pkl", pickle.dumps(Calls(os.system, "true"))[:-1] + b"\xff\xff")


def test_a_value_too_long_to_hold_is_refused_unread() -> None:
    data = b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"x" * 100
    with pytest.raises(ModelRejectedError):
        inspected("model.pkl", b"\x80\x04cposix\nsystem\n" + data)


def test_an_archive_that_unpacks_to_very_much_is_refused() -> None:
    with pytest.raises(ModelRejectedError, match="cannot be checked"):
        inspected("model.pt", in_zip(HARMLESS + b"\0" * (65 << 20)))
