import struct
import time
from pathlib import Path
from typing import Any

import gguf
import pytest

from modelshare.server.registry.inspection import FileReader, Format, ModelRejectedError, Task, inspect
from modelshare.server.registry.inspection.facts import Role
from modelshare.server.registry.inspection.gguf_types import FILE_TYPES, TENSOR_TYPES, ValueType
from unit.registry.samples import HugeReader, Typed, gguf_file, inspect_bytes, llama_gguf

F32 = {"t": ("F32", [4])}


def test_file_with_its_facts() -> None:
    tokens = {"tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.chat_template": "{{ messages }}"}
    facts = inspect_bytes({"tiny.gguf": llama_gguf(**tokens, **{"general.license": "mit", "general.name": "x"})})
    assert facts.format is Format.GGUF
    assert facts.weights == ("tiny.gguf",)
    assert (facts.architecture, facts.model_type, facts.family) == ("LlamaForCausalLM", "llama", "llama")
    assert facts.parameters == 256 * 8 + 256
    assert facts.dtypes == {"F32": 256, "Q4_K": 2048}
    assert facts.context_length == 4096
    assert facts.quantization == "Q4_K_M"
    assert facts.vocabulary_size == 3
    assert facts.has_chat_template
    assert facts.task is Task.CHAT
    assert facts.license == "mit"
    assert facts.warnings == ()


def test_file_written_by_the_gguf_library(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen3")
    writer.add_context_length(40_960)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_token_list(["a", "b"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_tensor("token_embd.weight", numpy.zeros((4, 64), "float32"), raw_dtype=None)
    blocks = gguf.quants.quantize(numpy.zeros((4, 64), "float32"), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("norm.weight", numpy.zeros(3, "float32"))
    writer.add_tensor("rope_ids", numpy.zeros(5, "int32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    facts = inspect({"m.gguf": FileReader(tmp_path / "m.gguf")})
    assert (facts.architecture, facts.family, facts.task) == ("Qwen3ForCausalLM", "qwen", Task.COMPLETION)
    assert (facts.context_length, facts.quantization, facts.vocabulary_size) == (40_960, "Q8_0", 2)
    assert facts.parameters == 256 + 256 + 3


def test_numbers_are_those_of_the_gguf_library() -> None:
    sizes = {int(number): (number.name, *gguf.GGML_QUANT_SIZES[number]) for number in gguf.GGMLQuantizationType}
    assert sizes == TENSOR_TYPES
    recipes = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {number: name for number, name in recipes.items() if name != "GUESSED"} == FILE_TYPES


@pytest.mark.parametrize(
    ("metadata", "quantization"),
    [
        ({"general.file_type": 7}, "Q8_0"),
        ({}, "F32"),
        ({"general.file_type": 1024}, "F32"),
    ],
)
def test_quantization_is_the_recipe_or_else_the_commonest_type(metadata: dict[str, Any], quantization: str) -> None:
    data = gguf_file({"general.architecture": "llama"} | metadata, F32)
    assert inspect_bytes({"m.gguf": data}).quantization == quantization


@pytest.mark.parametrize(
    ("metadata", "task"),
    [
        ({"general.architecture": "bert"}, Task.EMBEDDING),
        ({"general.architecture": "nomic-bert"}, Task.EMBEDDING),
        ({"general.architecture": "bert", "bert.pooling_type": 4}, Task.OTHER),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 3, "tokenizer.chat_template": "x"}, Task.EMBEDDING),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 0, "tokenizer.chat_template": "x"}, Task.CHAT),
        ({"general.architecture": "gpt2"}, Task.COMPLETION),
        ({"general.architecture": "brand-new"}, Task.OTHER),
    ],
)
def test_task(metadata: dict[str, Any], task: Task) -> None:
    assert inspect_bytes({"m.gguf": gguf_file(metadata, F32)}).task is task


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 32, 4096])
def test_versions_and_alignments(version: int, alignment: int) -> None:
    metadata = {"general.architecture": "llama", "general.alignment": alignment}
    tensors = {"a": ("F32", [3]), "b": ("F16", [5, 2]), "c": ("F32", [1])}
    data = gguf_file(metadata, tensors, version=version, alignment=alignment)
    assert inspect_bytes({"m.gguf": data}).parameters == 14


def test_last_tensor_needs_no_padding() -> None:
    data = gguf_file({"general.architecture": "llama"}, F32)
    assert inspect_bytes({"m.gguf": data[:-16]}).parameters == 4
    with pytest.raises(ModelRejectedError, match="truncated: 1 bytes"):
        inspect_bytes({"m.gguf": data[:-17]})


def split(number: int, count: int, **metadata: Any) -> bytes:
    first = {"general.architecture": "llama", "llama.context_length": 64} if number == 0 else {}
    fields = {"split.no": Typed(ValueType.UINT16, number), "split.count": Typed(ValueType.UINT16, count)}
    return gguf_file(first | fields | metadata, {f"t{number}": ("F32", [4 + number])})


def test_split_model_is_one_model() -> None:
    facts = inspect_bytes({f"m-{n + 1:05}-of-00003.gguf": split(n, 3) for n in range(3)})
    assert facts.parameters == 15
    assert facts.context_length == 64
    assert facts.weights == tuple(f"m-{n:05}-of-00003.gguf" for n in (1, 2, 3))
    assert facts.warnings == ()


@pytest.mark.parametrize(
    ("files", "because"),
    [
        (
            {"m-00001-of-00003.gguf": split(0, 3), "m-00003-of-00003.gguf": split(2, 3)},
            "m-00002-of-00003.gguf is missing",
        ),
        ({"m-00002-of-00002.gguf": split(1, 2)}, "m-00001-of-00002.gguf is missing"),
        ({"m-00001-of-99999.gguf": split(0, 65535)}, "not its name"),
        ({"m.gguf": split(0, 2)}, "part 1 of 2 according to its metadata but not its name"),
        ({"m-00002-of-00002.gguf": split(0, 2), "m-00001-of-00002.gguf": split(1, 2)}, "not its name"),
    ],
)
def test_incomplete_split_is_refused(files: dict[str, bytes], because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because):
        inspect_bytes(files)


def test_projector_beside_the_model_is_not_the_model() -> None:
    projector = gguf_file({"general.architecture": "clip"}, F32)
    facts = inspect_bytes({"a-mmproj.gguf": projector, "model.gguf": llama_gguf()})
    assert (facts.weights, facts.companions) == (("model.gguf",), {"a-mmproj.gguf": Role.PROJECTOR})
    assert facts.warnings == ("a-mmproj.gguf is a projector for images or sound: stored, and not run.",)


def test_several_models_are_warned_of() -> None:
    facts = inspect_bytes({"b.gguf": llama_gguf(), "a.gguf": llama_gguf()})
    assert facts.weights == ("a.gguf",)
    assert facts.warnings == (
        (
            "Of 2 models here, a.gguf is the one described and run. Choose another with `--file` when you push, or "
            "with `file` at an endpoint."
        ),
    )


def header(version: int = 3, tensors: int = 1, keys: int = 1, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def key(name: str, value_type: int, body: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", value_type) + body


def llama_with(**extra: Any) -> bytes:
    return gguf_file({"general.architecture": "llama"} | extra, F32)


TENSOR = struct.pack("<Q", 1) + b"t"
HUGE = struct.pack("<Q", 2**60)
STRING, ARRAY = ValueType.STRING, ValueType.ARRAY


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"", "empty"),
        (b"GGU", "does not begin like a GGUF file"),
        (b"ggml" + bytes(100), "does not begin like a GGUF file"),
        (header(version=1), "not GGUF version 2 or 3"),
        (header(version=4), "not GGUF version 2 or 3"),
        (header(version=3 << 24), "big-endian"),
        (header()[:20], "ends inside its header"),
        (header(tensors=2**60), "states 1,152,921,504,606,846,976 tensors"),
        (header(keys=2**60), "states 1,152,921,504,606,846,976 metadata keys"),
        (header(rest=HUGE), "states a metadata key of 1,152"),
        (header(rest=key("a", STRING, HUGE)), "ends inside its header"),
        (header(rest=key("general.name", STRING, HUGE)), "states a text of 1,152"),
        (header(rest=key("a", ARRAY, struct.pack("<I", 0) + HUGE)), "ends inside its header"),
        (header(rest=key("a", ARRAY, struct.pack("<I", STRING) + HUGE)), "too large an array"),
        (header(rest=key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 9)), "too large an array"),
        (header(rest=key("a", 13, b"")), "unknown type 13"),
        (header(rest=key("a", ARRAY, struct.pack("<IQ", 99, 1))), "unknown type 99"),
        (header(keys=2, rest=key("a", 0, b"1") * 2), "the key a appears twice"),
        (llama_with(**{"general.alignment": 0}), "alignment"),
        (llama_with(**{"general.alignment": 33}), "alignment"),
        (llama_with(**{"general.alignment": 1 << 30}), "alignment"),
        (llama_with(**{"general.alignment": "x"}), "alignment"),
        (header(keys=0, rest=TENSOR + struct.pack("<I", 5)), "states 5 dimensions"),
        (header(keys=0, rest=struct.pack("<Q", 65)), "states a tensor name of 65"),
        (header(keys=0, rest=TENSOR + struct.pack("<IQIQ", 1, 4, 31, 0)), "tensor type 31"),
        (header(keys=0, rest=TENSOR + struct.pack("<IQIQ", 1, 33, 2, 0)), "not whole blocks of Q4_0"),
        (header(keys=0, rest=TENSOR + struct.pack("<IQIQ", 1, 4, 0, 32)), "gap or overlaps"),
        (header(keys=0, rest=TENSOR + struct.pack("<IQIQ", 1, 2**62, 0, 0)), "truncated"),
        (header(keys=0, rest=TENSOR + struct.pack("<IQQQQIQ", 4, *[2**63] * 4, 0, 0)), "truncated"),
        (
            header(2, keys=0, tensors=2, rest=(TENSOR + struct.pack("<IQIQ", 1, 0, 0, 0)) * 2),
            "the tensor t appears twice",
        ),
        (gguf_file({"general.architecture": "llama"}, {}), "contains no tensors"),
        (gguf_file({"general.architecture": 5}, F32), "does not set general.architecture"),
        (gguf_file({}, F32), "does not set general.architecture"),
    ],
)
def test_damaged_file_is_refused_in_one_sentence(data: bytes, because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because) as caught:
        inspect_bytes({"m.gguf": data})
    assert caught.value.reason.startswith("m.gguf ")
    assert caught.value.reason.isprintable()


def test_header_that_goes_on_for_ever_is_refused() -> None:
    start = header(keys=3, rest=key("a", ARRAY, struct.pack("<IQ", 0, 200 << 20)))
    with pytest.raises(ModelRejectedError, match="header of more than 128 MiB"):
        inspect({"m.gguf": HugeReader(start, 1 << 40)})


def test_long_arrays_are_skipped_not_read() -> None:
    data = header(keys=3, rest=key("a", ARRAY, struct.pack("<IQ", 0, 100 << 20)))
    reader = HugeReader(data, 1 << 40)
    with pytest.raises(ModelRejectedError, match="appears twice"):
        inspect({"m.gguf": reader})
    assert reader.bytes_read < 3 << 20


@pytest.mark.parametrize(
    "items",
    [
        struct.pack("<IQ", STRING, 3_000_000) + struct.pack("<Q", 0) * 3_000_000,
        struct.pack("<IQ", STRING, 3_000_000) + (struct.pack("<Q", 5) + b"token") * 3_000_000,
        struct.pack("<IQ", ARRAY, 200_000) + struct.pack("<IQ", STRING, 0) * 200_000,
        struct.pack("<IQ", ARRAY, 2_000_000) + struct.pack("<IQ", STRING, 0) * 2_000_000,
    ],
    ids=["empty strings", "strings", "arrays", "too many arrays"],
)
def test_no_array_takes_long(items: bytes) -> None:
    """In the processor's time, next to that of unpacking three million numbers: a bound on work, not only on bytes."""
    files = {"m.gguf": header(keys=1, rest=key("a", ARRAY, items))}

    def inspecting() -> float:
        began = time.process_time()
        with pytest.raises(ModelRejectedError):
            inspect_bytes(files)
        return time.process_time() - began

    def unpacking(count: int) -> float:
        began = time.process_time()
        for _ in range(count):
            struct.unpack_from("<Q", items)
        return time.process_time() - began

    assert min(inspecting() for _ in range(2)) < 4 * 10 * min(unpacking(300_000) for _ in range(5))


def test_strings_are_passed_across_windows_and_to_the_end() -> None:
    texts = ["x" * (number % 700) for number in range(8_000)] + ["y" * 3_000_000, "z"]
    data = llama_gguf(**{"tokenizer.ggml.tokens": texts})
    assert len(data) > 5 << 20
    assert inspect_bytes({"m.gguf": data}).vocabulary_size == len(texts)
    with pytest.raises(ModelRejectedError, match="ends inside its header"):
        inspect_bytes({"m.gguf": data[: 2 << 20]})
