"""The verdict on a safetensors file is that of the `safetensors` library, save for what is listed as stricter."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open

from modelshare.server.registry.inspection import FileReader, ModelRejectedError, inspect
from modelshare.server.registry.inspection.safetensors import DTYPE_BITS, read_header
from unit.registry.samples import MemoryReader, safetensors_file, safetensors_from

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ENTRY = json.dumps(GOOD)


def library_takes(data: bytes) -> bool:
    try:
        deserialize(data)  # type: ignore[no-untyped-call] # the library has no types
    except SafetensorError:
        return False
    return True


def taken_here(data: bytes) -> bool:
    try:
        read_header("model.safetensors", MemoryReader(data))
    except ModelRejectedError:
        return False
    return True


def named(text: str) -> bytes:
    """A header of `text` before eight bytes of data."""
    return safetensors_from(text.encode(), bytes(8))


SAME_VERDICT = {
    "plain": (named(f'{{"a":{ENTRY}}}'), True),
    "metadata": (named(f'{{"__metadata__":{{"k":"v"}},"a":{ENTRY}}}'), True),
    "metadata null": (named(f'{{"__metadata__":null,"a":{ENTRY}}}'), True),
    "metadata number": (named(f'{{"__metadata__":{{"step":7}},"a":{ENTRY}}}'), False),
    "metadata null value": (named(f'{{"__metadata__":{{"step":null}},"a":{ENTRY}}}'), False),
    "metadata list": (named(f'{{"__metadata__":["v"],"a":{ENTRY}}}'), False),
    "metadata nested": (named(f'{{"__metadata__":{{"k":{{}}}},"a":{ENTRY}}}'), False),
    "metadata text": (named(f'{{"__metadata__":"v","a":{ENTRY}}}'), False),
    "metadata twice": (named(f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{ENTRY}}}'), False),
    "metadata surrogate": (named(f'{{"__metadata__":{{"k":"\\udc00"}},"a":{ENTRY}}}'), False),
    "spaces before": (named(f' \n{{"a":{ENTRY}}}'), True),
    "spaces after": (named(f'{{"a":{ENTRY}}} \t\n\r'), True),
    "zeros after": (named(f'{{"a":{ENTRY}}}\0\0'), False),
    "words after": (named(f'{{"a":{ENTRY}}} x'), False),
    "byte order mark": (named(f'\ufeff{{"a":{ENTRY}}}'), False),
    "UTF-16": (safetensors_from(f'{{"a":{ENTRY}}}'.encode("utf-16"), bytes(8)), False),
    "surrogate": (named(f'{{"\\ud800":{ENTRY}}}'), False),
    "surrogate pair": (named(f'{{"\\ud83d\\ude00":{ENTRY}}}'), True),
    "control character": (named(f'{{"a\nb":{ENTRY}}}'), False),
    "empty name": (named(f'{{"":{ENTRY}}}'), True),
    "minus zero": (named('{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}'), False),
    "exponent": (named('{"a":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}}'), False),
    "NaN": (named('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), False),
    "leading zero": (named('{"a":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}'), False),
    "comment": (named(f'{{"a":{ENTRY}/**/}}'), False),
    "comma at the end": (named(f'{{"a":{ENTRY},}}'), False),
    "missing shape": (named('{"a":{"dtype":"F32","data_offsets":[0,8]}}'), False),
    "null shape": (named('{"a":{"dtype":"F32","shape":null,"data_offsets":[0,8]}}'), False),
    "dtype twice": (named('{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), False),
    "scalar": (safetensors_from({"a": GOOD | {"shape": [], "data_offsets": [0, 4]}}, bytes(4)), True),
    "empty tensor": (safetensors_from({"a": GOOD | {"shape": [0, 9], "data_offsets": [0, 0]}}), True),
    "empty tensor amid": (
        safetensors_from({"b": GOOD, "a": GOOD | {"shape": [0], "data_offsets": [0, 0]}}, bytes(8)),
        True,
    ),
    "empty tensor apart": (
        safetensors_from({"b": GOOD, "a": GOOD | {"shape": [0], "data_offsets": [4, 4]}}, bytes(8)),
        False,
    ),
    "any order": (
        safetensors_from({"a": GOOD | {"data_offsets": [8, 16]}, "b": GOOD}, bytes(16)),
        True,
    ),
    "overflow hidden by zero": (
        safetensors_from({"a": GOOD | {"shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}),
        False,
    ),
    "large beside zero": (safetensors_from({"a": GOOD | {"shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}), True),
    "four bits": (safetensors_from({"a": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}, bytes(3)), True),
    "half a byte": (safetensors_from({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)), False),
    "six bits": (safetensors_from({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, bytes(3)), True),
    "lower case": (safetensors_from({"a": GOOD | {"dtype": "f32"}}, bytes(8)), False),
    "header of 100 MB and a byte": ((100_000_001).to_bytes(8, "little") + b"{}", False),
    "header of nothing": (bytes(8), False),
}

# Stricter than the library, as docs/decisions/0024-checks-of-readers.md explains
STRICTER = {
    "no tensors": safetensors_from({}),
    "a name twice": named(f'{{"a":{ENTRY},"a":{ENTRY}}}'),
    "a metadata key twice": named(f'{{"__metadata__":{{"k":"v","k":"w"}},"a":{ENTRY}}}'),
    "another field": named('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}'),
    "an entry as a list": named('{"a":["F32",[2],[0,8]]}'),
    "a dtype as an object": named('{"a":{"dtype":{"F32":null},"shape":[2],"data_offsets":[0,8]}}'),
    "65 dimensions": safetensors_from({"a": GOOD | {"shape": [1] * 64 + [2]}}, bytes(8)),
    "a dimension of 2^63": safetensors_from({"a": GOOD | {"shape": [0, 2**63], "data_offsets": [0, 0]}}),
    "2,000,001 values": named(
        f'{{"a":{ENTRY},"b":{{"shape":[' + "0," * 2_000_000 + '0],"dtype":"F32","data_offsets":[8,8]}}'
    ),
}


@pytest.mark.parametrize(("data", "taken"), SAME_VERDICT.values(), ids=SAME_VERDICT.keys())
def test_verdict_is_that_of_the_library(data: bytes, taken: bool, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    try:
        with safe_open(tmp_path / "model.safetensors", framework="np"):
            opened = True
    except SafetensorError:
        opened = False
    assert (taken_here(data), library_takes(data), opened) == (taken, taken, taken)


@pytest.mark.parametrize("data", STRICTER.values(), ids=STRICTER.keys())
def test_stricter_than_the_library(data: bytes) -> None:
    assert library_takes(data)
    assert not taken_here(data)


@pytest.mark.parametrize("dtype", [*DTYPE_BITS, "C128", "I4", "F8", "Q4_0"])
def test_types_are_those_of_the_library(dtype: str) -> None:
    size = DTYPE_BITS.get(dtype, 8)
    data = safetensors_from({"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(size))
    assert library_takes(data) == taken_here(data) == (dtype in DTYPE_BITS)


def test_file_saved_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save_file = importlib.import_module("safetensors.torch").save_file
    types = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64)
    tensors = {str(dtype): torch.zeros(3, 5, dtype=dtype) for dtype in types}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    facts = inspect({"model.safetensors": FileReader(tmp_path / "model.safetensors")})
    assert facts.dtypes == dict.fromkeys(sorted(["F32", "BF16", "F8_E4M3", "I64", "BOOL", "C64"]), 15)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 8, -1, 2**31, 2**62, 2**63, 2**64, 2.0, True, None, "2"]), max_size=4)
OFFSETS = st.lists(st.sampled_from([0, 1, 2, 4, 8, 16, 24, -0.0, -1, 2**64, None, "0", True]), min_size=1, max_size=3)
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from([*DTYPE_BITS, "F31", None, 5]), "shape": SHAPES, "data_offsets": OFFSETS}
)
METADATA = st.none() | st.dictionaries(st.text(max_size=2), st.text(max_size=2) | st.integers() | st.none(), max_size=2)


@st.composite
def whole_files(draw: st.DrawFn) -> bytes:
    """Tensors that lie one behind the other, as a writer puts them, and perhaps one entry of another kind."""
    header: dict[str, Any] = {}
    end = 0
    for number in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        start, end = end, end + math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    if draw(st.booleans()):
        header["__metadata__"] = draw(METADATA)
    if draw(st.booleans()):
        header[draw(st.sampled_from(["t0", "odd"]))] = draw(ENTRIES)
    padding = draw(st.sampled_from(["", " ", "   \n", "\0", "x"]))
    return safetensors_from(
        (json.dumps(header) + padding).encode(), bytes(max(0, end + draw(st.sampled_from([0, 0, 1, -1]))))
    )


def beyond_numpy(data: bytes) -> bool:
    return str(2**63).encode() in data


@settings(max_examples=300, deadline=None, derandomize=True)
@given(whole_files())
def test_verdict_on_generated_files_is_that_of_the_library(data: bytes) -> None:
    if not beyond_numpy(data):
        assert taken_here(data) == library_takes(data)


SAMPLE = safetensors_file({"a": ("F32", [2, 3]), "bb": ("BF16", [4]), "c": ("I64", [1])}, metadata={"format": "pt"})
EDIT = st.tuples(
    st.integers(0, len(SAMPLE) - 1),
    st.integers(0, 2),
    st.sampled_from([b"", *(bytes([c]) for c in b'0128-[]{},:" '), b"\xff"]),
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.lists(EDIT, max_size=3))
def test_verdict_on_damaged_files_is_that_of_the_library(edits: list[tuple[int, int, bytes]]) -> None:
    data = bytearray(SAMPLE)
    for position, length, replacement in edits:
        data[position : position + length] = replacement
    assert taken_here(bytes(data)) == library_takes(bytes(data))
