import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire.model_files import missing, numbered, refusal

CONFIG = "config.json"


def shards(count: int, *, without: int = 0, suffix: str = ".safetensors", prefix: str = "model") -> list[str]:
    return [f"{prefix}-{n:05}-of-{count:05}{suffix}" for n in range(1, count + 1) if n != without]


@pytest.mark.parametrize(
    "paths",
    [
        [CONFIG, "model.safetensors"],
        [CONFIG, "model.safetensors", "model.safetensors.index.json", "model.safetensors.sha256", "x.gguf.md"],
        [CONFIG, *shards(3)],
        [*shards(2, suffix=".gguf", prefix="sub/model Q8")],
        [*shards(2, suffix=".gguf"), *shards(3, suffix=".gguf")],
        [CONFIG, *shards(2, suffix=".fp16.safetensors"), *shards(2)],
        [CONFIG, *shards(2, suffix=".bin", prefix="pytorch_model")],
        ["model.ggml", "model.gguf", "a.tensors", "b.guff.md", "c.gif"],
        ["notes-00001-of-00002.txt", "model.gguf"],
        ["model-1-of-2.gguf"],
    ],
    ids=lambda paths: paths[-1],
)
def test_names_against_which_nothing_speaks(paths: list[str]) -> None:
    assert refusal(paths) is None


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([CONFIG], "no weights"),
        ([CONFIG, *shards(3, without=2)], "model-00002-of-00003.safetensors is missing, of 3 that belong together"),
        (["model-00001-of-00002.gguf"], "model-00002-of-00002.gguf is missing"),
        (["Model-00002-of-00009.GGUF"], "Model-00001-of-00009.GGUF and 7 more are missing"),
        (["a/x-00001-of-00002.safetensors", "b/x-00002-of-00002.safetensors"], "a/x-00002-of-00002.safetensors is"),
        ([*shards(2, without=1, suffix=".fp16.safetensors"), *shards(2)], "model-00001-of-00002.fp16.safetensors is"),
        (["x-00000-of-00002.gguf", "x-00001-of-00002.gguf", "x-00002-of-00002.gguf"], "beyond its part count"),
        (["x-00003-of-00002.gguf"], "beyond its part count"),
        (["x-00001-of-999999999.gguf"], "and 999,999,997 more are missing"),
        ([CONFIG, "model.safetensor"], "Rename it to model.safetensors"),
        ([CONFIG, "model.safetensors", "other.saftensors"], "Rename it to other.safetensors"),
        (["model.gguf.txt"], "Rename it to model.gguf"),
        (["model.ggfu"], "Rename it to model.gguf"),
        (["model.safetensors (1)"], "Rename it to model.safetensors"),
        (["model.gguf.1", "model.gguf"], "Rename it to model.gguf"),
        (["model.gguf.zip"], "is compressed"),
        (["model.safetensors.gz", "model.safetensors"], "is compressed"),
        (["model.gguf-split-a", "model.gguf-split-b"], "Join the fragments into"),
        (["model.gguf.part1of2", "model.gguf.part2of2"], "Join the fragments into"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_that_tell_what_is_wrong(paths: list[str], words: str) -> None:
    said = refusal(paths)
    assert said is not None
    assert words in said
    assert said.endswith(".")


def test_an_unfinished_download_is_named() -> None:
    assert "model.safetensors.part is an unfinished download" in str(
        refusal([CONFIG], unfinished=["model.safetensors.part", "x.tmp"])
    )
    half = "model-00002-of-00002.safetensors.incomplete"
    assert f"{half} is an unfinished download: finish it" in str(refusal(shards(2, without=2), unfinished=[half]))
    assert missing("a.safetensors") == "a.safetensors is missing. Push all of them."


def test_pickles_are_for_the_platform_to_allow() -> None:
    paths = [CONFIG, "pytorch_model.bin", "model.safetensors", "extra.pth.tar"]
    assert refusal(paths) is None
    assert "extra.pth.tar (and 1 more) is a Python pickle" in str(refusal(paths, allow_pickle=False))
    assert refusal(["openvino_model.bin", "openvino_model.xml", "m.gguf"], allow_pickle=False) is None


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([".safetensors", ".gguf", ".bf16.safetensors"]))
def test_numbered_files_are_taken_only_when_all_are_there(count: int, without: int, suffix: str) -> None:
    paths = [CONFIG, "x.gguf", *shards(count, without=without, suffix=suffix)]
    said = refusal(paths)
    lacks = 1 <= without <= count and count > 1
    assert (said is not None) == lacks
    if lacks:
        assert f"model-{without:05}-of-{count:05}{suffix} is missing" in str(said)
    for path in paths[2:]:
        part = numbered(path)
        assert part is not None
        assert path == part.sister(part.number)


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_names_are_judged_in_a_sentence(paths: list[str]) -> None:
    said = refusal(paths, allow_pickle=False)
    assert said is None or (said.endswith(".") and said.isprintable())
