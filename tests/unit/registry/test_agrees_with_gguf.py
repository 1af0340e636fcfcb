"""The verdict on a GGUF file is that of llama.cpp and of the `gguf` package, save for what is listed as stricter."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llamacpp_library
from modelshare.demo import tiny_model
from modelshare.server.registry.inspection.gguf import examine
from modelshare.server.registry.inspection.gguf_types import TENSOR_TYPES, ValueType
from unit.registry.samples import TYPE_NUMBERS, MemoryReader, Typed, gguf_file, reason_of

F32 = {"t": ("F32", [4])}
LLAMA = {"general.architecture": "llama"}


def taken_here(data: bytes) -> bool:
    return examine("m.gguf", MemoryReader(data)).refused is None


def package_takes(data: bytes, folder: Path) -> bool:
    path = folder / "m.gguf"
    path.write_bytes(data)
    try:
        gguf.GGUFReader(path)
    except Exception:  # noqa: BLE001 - whatever numpy makes of it
        return False
    return True


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(keys: list[bytes], tensors: list[bytes], *, version: int = 3, data: int = 64) -> bytes:
    start = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys + tensors)
    return start.ljust(-(-len(start) // 32) * 32, b"\0") + bytes(data)


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (4,), number: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", number, offset)


def number(name: bytes, value: int, kind: ValueType = ValueType.UINT32) -> bytes:
    return text(name) + struct.pack("<I", kind) + struct.pack("<Q", value)[: 8 if kind >= ValueType.UINT64 else 4]


def array(name: bytes, item: ValueType, count: int, body: bytes) -> bytes:
    return text(name) + struct.pack("<IIQ", ValueType.ARRAY, item, count) + body


TAKEN = {
    "plain": header([], [tensor()]),
    "version 2": header([], [tensor()], version=2),
    "no dimensions": header([], [tensor(shape=())]),
    "no elements": header([], [tensor(shape=(0, 4))]),
    "a name of 63 bytes": header([], [tensor(name=b"x" * 63)]),
    "a name of nothing": header([], [tensor(name=b"")]),
    "an array": header([array(b"a", ValueType.INT16, 3, bytes(6))], [tensor()]),
    "an array of texts": header([array(b"a", ValueType.STRING, 2, text(b"x") * 2)], [tensor()]),
    "an array of nothing": header([array(b"a", ValueType.STRING, 0, b"")], [tensor()]),
    "an alignment": gguf_file({"general.alignment": 64}, F32, alignment=64),
    "bytes after the end": header([], [tensor()], data=99),
    "no tensors": header([], [], data=0),
    "two tensors": header([], [tensor(), tensor(name=b"u", offset=32)]),
}

REFUSED = {
    "an array beyond the end": header([array(b"a", ValueType.UINT8, 1000, b"")], [tensor()]),
    "a negative size of nothing": header([], [tensor(shape=(0, 2**63))]),
    "version 1": header([], [tensor()], version=1),
    "version 4": header([], [tensor()], version=4),
    "version 0": header([], [tensor()], version=0),
    "another magic": b"GGML" + header([], [tensor()])[4:],
    "a key twice": header([number(b"a", 1), number(b"a", 1)], [tensor()]),
    "a tensor twice": header([], [tensor(), tensor(offset=32)]),
    "an unknown tensor type": header([], [tensor(number=138)]),
    "a tensor type that was removed": header([], [tensor(number=4)]),
    "a value type that is unknown": header(
        [number(b"a", 1, ValueType.UINT32).replace(b"\x04\0\0\0", b"\x0d\0\0\0")], []
    ),
    "rows that are no blocks": header([], [tensor(shape=(33,), number=2)]),
    "an alignment of another type": gguf_file({"general.alignment": Typed(ValueType.UINT64, 32)}, F32),
    "an alignment of 0": header([number(b"general.alignment", 0)], [tensor()]),
    "an alignment of 24": header([number(b"general.alignment", 24)], [tensor()]),
    "an alignment as a text": gguf_file({"general.alignment": "32"}, F32),
    "a text beyond the end": header([text(b"a") + struct.pack("<IQ", ValueType.STRING, 2**40)], [tensor()]),
    "data cut short": header([], [tensor()], data=15),
    "offset beyond the end": header([], [tensor(offset=2**40)]),
    "fewer keys than said": header([], [], data=0)[:16] + struct.pack("<Q", 3),
}

# llama.cpp refuses these, the package does not look
BY_LLAMA_CPP = {
    "five dimensions": header([], [tensor(shape=(4, 1, 1, 1, 1))]),
    "a name of 64 bytes": header([], [tensor(name=b"x" * 64)]),
    "an empty key": header([number(b"", 1)], [tensor()]),
    "arrays in an array": header([array(b"a", ValueType.ARRAY, 1, struct.pack("<IQ", ValueType.UINT8, 0))], [tensor()]),
    "a hole": header([], [tensor(offset=32)]),
    "tensors that overlap": header([], [tensor(), tensor(name=b"u", offset=0)]),
    "an offset that is not aligned": header([], [tensor(), tensor(name=b"u", offset=16)]),
    "no padding before the data": header([], [tensor(shape=(0,))], data=0)[:-1],
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
}

# The package refuses these, llama.cpp does not look
BY_PACKAGE = {
    "a key that is not UTF-8": header([number(b"\xff", 1)], [tensor()]),
    "a name that is not UTF-8": header([], [tensor(name=b"\xff")]),
    "a tensor type too new for it": header([], [tensor(shape=(256,), number=42)], data=256),
}

# Neither refuses these; docs/decisions/0024-checks-of-readers.md says why it is done here
STRICTER = {
    "names that are one in C": header([], [tensor(name=b"t\0a"), tensor(name=b"t\0b", offset=32)]),
    "a key of 64 KiB": header([number(b"k" * 65_536, 1)], [tensor()]),
    "an alignment of 2 MiB": gguf_file({"general.alignment": 2 << 20}, F32, alignment=2 << 20),
}


@pytest.mark.parametrize(
    ("data", "by_llama_cpp", "by_package"),
    [
        *(pytest.param(data, True, True, id=name) for name, data in TAKEN.items()),
        *(pytest.param(data, False, False, id=name) for name, data in REFUSED.items()),
        *(pytest.param(data, False, True, id=name) for name, data in BY_LLAMA_CPP.items()),
        *(pytest.param(data, True, False, id=name) for name, data in BY_PACKAGE.items()),
    ],
)
def test_taken_where_both_take_it(data: bytes, by_llama_cpp: bool, by_package: bool, tmp_path: Path) -> None:
    assert (llamacpp_library.reads(data), package_takes(data, tmp_path)) == (by_llama_cpp, by_package)
    assert taken_here(data) == (by_llama_cpp and by_package)


@pytest.mark.parametrize("data", STRICTER.values(), ids=STRICTER.keys())
def test_stricter_than_both(data: bytes, tmp_path: Path) -> None:
    assert llamacpp_library.reads(data)
    assert package_takes(data, tmp_path)
    assert not taken_here(data)


@pytest.mark.parametrize("name", sorted(TYPE_NUMBERS.keys() - {"Q8_1"}))  # no file has it; the package is wrong there
def test_every_tensor_type_has_the_size_that_llama_cpp_gives_it(name: str) -> None:
    _, elements, size = TENSOR_TYPES[TYPE_NUMBERS[name]]
    data = gguf_file({}, {"a": (name, [elements * 3]), "b": (name, [elements])})
    short = data[: len(data) - (-(-size // 32) * 32 - size) - 1]
    assert (llamacpp_library.reads(data), taken_here(data)) == (True, True)
    assert (llamacpp_library.reads(short), taken_here(short)) == (False, False)


SIZES = st.sampled_from([0, 1, 2, 4, 32, 33, 256])
SCALAR_KINDS = [kind for kind in ValueType if kind not in {ValueType.STRING, ValueType.ARRAY}]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Whole files, and such with a few bytes changed, put in or cut off."""
    metadata: dict[str, Any] = {}
    for key in draw(st.lists(st.text("ab.é", max_size=3), max_size=3)):
        value = st.integers(0, 100) | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=3) | st.booleans()
        metadata[key] = draw(value)
    if draw(st.booleans()):
        kind = draw(st.sampled_from([ValueType.UINT32, ValueType.UINT32, ValueType.INT32, ValueType.UINT64]))
        metadata["general.alignment"] = Typed(kind, draw(st.sampled_from([1, 8, 16, 32, 48, 64, 0])))
    alignment = metadata["general.alignment"].value if "general.alignment" in metadata else 32
    names = draw(st.lists(st.sampled_from(["a", "b", "blk.0", "x" * 63, "x" * 64]), max_size=3, unique=True))
    types = st.sampled_from(["F32", "F16", "Q4_0", "Q8_0", "Q4_K", "I8"])
    shapes = st.lists(SIZES, min_size=1, max_size=3)
    data = bytearray(
        gguf_file(metadata, {name: (draw(types), draw(shapes)) for name in names}, alignment=alignment or 32)
    )
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        position = draw(st.integers(0, min(len(data), 400)))
        data[position : position + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: len(data) - draw(st.sampled_from([0, 0, 0, 1, 16, 40]))])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=files())
def test_verdict_on_generated_files(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The package is asked last, for it may go on for hours about a length that is wrong.
    both = llamacpp_library.reads(data) and package_takes(data, tmp_path_factory.getbasetemp())
    assert taken_here(data) == both


@pytest.fixture(scope="module")
def chat_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "chat.gguf"
    tiny_model.write_gguf(path)
    return path


def rewritten(source: Path, target: Path, key: str, kind: gguf.GGUFValueType, value: Any) -> Path:
    """A copy in which one key has another value, or comes new."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "llama")
    for each in reader.fields.values():
        if each.name.startswith("GGUF.") or each.name in {"general.architecture", key}:
            continue
        if each.types[0] is gguf.GGUFValueType.ARRAY:
            writer.add_array(each.name, each.contents())
        else:
            writer.add_key_value(each.name, each.contents(), each.types[0])
    writer.add_key_value(key, value, kind)
    for stored in reader.tensors:
        writer.add_tensor(stored.name, stored.data, raw_dtype=stored.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


KIND = gguf.GGUFValueType
VALUES: dict[str, tuple[str, gguf.GGUFValueType, Any, bool]] = {
    "the context as it is": ("llama.context_length", KIND.UINT32, 512, True),
    "the context in 64 bits": ("llama.context_length", KIND.UINT64, 512, False),
    "the context as a float": ("llama.context_length", KIND.FLOAT32, 512.0, False),
    "the context as a text": ("llama.context_length", KIND.STRING, "512", False),
    "the width in 16 bits": ("llama.embedding_length", KIND.UINT16, 64, False),
    "the layers with a sign": ("llama.block_count", KIND.INT32, 2, False),
    "an epsilon in 64 bits": ("llama.attention.layer_norm_rms_epsilon", KIND.FLOAT64, 1e-5, False),
    "a rotation base as an integer": ("llama.rope.freq_base", KIND.UINT32, 10_000, False),
    "the recipe as a text": ("general.file_type", KIND.STRING, "x", False),
    "the recipe in 8 bits": ("general.file_type", KIND.UINT8, 7, False),
    "the name as a number": ("general.name", KIND.UINT32, 7, False),
    "a token id with a sign": ("tokenizer.ggml.bos_token_id", KIND.INT32, 1, False),
    "a switch as a number": ("tokenizer.ggml.add_bos_token", KIND.UINT8, 1, False),
    "the kind of tokenizer as a number": ("tokenizer.ggml.model", KIND.UINT32, 1, False),
    "other keys as they come": ("general.version", KIND.FLOAT64, 1.5, True),
    "another model's keys": ("bert.context_length", KIND.STRING, "512", True),
}


def test_metadata_of_other_types_than_llama_cpp_takes_is_refused(chat_gguf: Path, tmp_path: Path) -> None:
    files = {
        name: rewritten(chat_gguf, tmp_path / f"{index}.gguf", key, kind, value)
        for index, (name, (key, kind, value, _)) in enumerate(VALUES.items())
    }
    expected = {name: loads for name, (*_, loads) in VALUES.items()}
    assert llamacpp_library.loads(files) == expected
    reasons = {name: reason_of({"m.gguf": path.read_bytes()}) for name, path in files.items()}
    assert {name: reason is None for name, reason in reasons.items()} == expected
    context = "m.gguf stores llama.context_length as UINT64, but llama.cpp accepts only UINT32"
    assert (reasons["the context in 64 bits"] or "").startswith(context)


def split_file(number: int, count: int, names: str, *, tensors: int | None) -> bytes:
    place = {"split.no": Typed(ValueType.UINT16, number), "split.count": Typed(ValueType.UINT16, count)}
    total = {} if tensors is None else {"split.tensors.count": Typed(ValueType.INT32, tensors)}
    return gguf_file(LLAMA | place | total, {name: ("F32", [4]) for name in names})


@pytest.mark.parametrize(
    ("first", "second", "because"),
    [
        (split_file(0, 2, "ab", tensors=3), split_file(1, 2, "c", tensors=3), None),
        (split_file(0, 2, "", tensors=1), split_file(1, 2, "c", tensors=1), None),
        (
            split_file(0, 2, "ab", tensors=3),
            split_file(1, 2, "b", tensors=3),
            "contains the tensor b, which another part has too",
        ),
        (
            split_file(0, 2, "ab", tensors=4),
            split_file(1, 2, "c", tensors=4),
            "states 4 tensors, but the parts contain 3",
        ),
    ],
)
def test_parts_make_up_what_the_first_says(first: bytes, second: bytes, because: str | None) -> None:
    reason = reason_of({"m-00001-of-00002.gguf": first, "m-00002-of-00002.gguf": second})
    assert reason is None if because is None else because in (reason or "")


def write_model(path: Path, add: Callable[[gguf.GGUFWriter], None]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    add(writer)
    writer.add_tensor("token_embd.weight", np.zeros((4, 64), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    "add",
    [
        lambda writer: writer.add_custom_alignment(64),
        lambda writer: writer.add_array("numbers", [1.5, 2.5]),
        lambda writer: writer.add_token_list([b"\xff", b"a"]),
        lambda writer: writer.add_base_model_count(1),
    ],
)
def test_files_that_the_package_writes(add: Callable[[gguf.GGUFWriter], None], tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", add)
    data = (tmp_path / "m.gguf").read_bytes()
    assert llamacpp_library.reads(data)
    assert reason_of({"m.gguf": data}) is None


@pytest.mark.parametrize("small_first_shard", [False, True])
def test_parts_that_the_package_splits(small_first_shard: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=2, small_first_shard=small_first_shard)
    for name in "abcde":
        writer.add_tensor(name, np.zeros((4, 64), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 3 + small_first_shard
    assert reason_of(files) is None
