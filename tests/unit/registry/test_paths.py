import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.registry.paths import MAX_FILES, check_paths
from modelshare.server.registry.refused import ModelRejectedError


@pytest.mark.parametrize(
    "paths",
    [
        ["config.json", "1_Pooling/config.json", ".gitattributes", "model-00001-of-00002.safetensors"],
        ["été/poids à jour #1.gguf", "日本語.txt", "a..b", "...a", "-rf"],
        ["a/" * 100 + "b"],
        ["a" * 255],
        ["a/b", "a/c", "A/d"],
        ["aux1", "console.log", "common/x"],
        [f"{n}.txt" for n in range(MAX_FILES)],
        [],
    ],
)
def test_fit_paths_pass(paths: list[str]) -> None:
    check_paths(paths)


@pytest.mark.parametrize(
    ("path", "because"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("../evil", "leave the model's folder"),
        ("a/../../b", "leave the model's folder"),
        ("a/..", "leave the model's folder"),
        ("./a", "plain path"),
        ("a/./b", "plain path"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("a\\b", "backslash"),
        ("..\\evil", "backslash"),
        ("C:/windows", "character :"),
        ("c:evil", "character :"),
        ("config.json:stream", "character :"),
        ("what?", "character ?"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7fb", "control"),
        ("a\x85b", "control"),
        ("\ud800", "control"),
        ("gpj\u202e.exe", "control"),
        ("e\u0301.json", "normal form"),
        ("a" * 256, "255"),
        ("é" * 128, "255"),
        ("a/" * 512 + "b", "1,024"),
        ("a./b", "dot or a space"),
        ("a ", "dot or a space"),
        (".git/config", "leave that folder out"),
        ("sub/.GIT/hooks/x", "leave that folder out"),
        ("nul", "Windows"),
        ("a/COM1.txt", "Windows"),
    ],
)
def test_unfit_path_is_refused_with_its_reason(path: str, because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because.replace("?", r"\?")) as caught:
        check_paths(["fine", path])
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize(
    ("paths", "because"),
    [
        (["a", "a"], "twice"),
        (["README.md", "readme.MD"], "case only"),
        (["straße", "STRASSE"], "case only"),
        (["a", "a/b"], "both a file and the folder"),
        (["a/b/c", "a/b"], "both a file and the folder"),
        (["A/b", "a"], "both a file and the folder"),
        ([f"{n}.txt" for n in range(MAX_FILES + 1)], "10,000"),
    ],
)
def test_paths_that_cannot_stand_together_are_refused(paths: list[str], because: str) -> None:
    with pytest.raises(ModelRejectedError, match=because):
        check_paths(paths)


@given(st.lists(st.text(alphabet="aA./\\ é\u0301:\0", max_size=8), max_size=6))
def test_what_passes_is_relative_distinct_and_inside(paths: list[str]) -> None:
    try:
        check_paths(paths)
    except ModelRejectedError:
        return
    assert len({path.casefold() for path in paths}) == len(paths)
    for path in paths:
        assert all(part not in {"", ".", ".."} for part in path.split("/"))
        assert not set(path) & set("\\:\0")


@pytest.mark.parametrize("depth", [2, 100])
def test_no_set_of_paths_holds_more_folders_than_can_be_kept(depth: int) -> None:
    paths = ["/".join([f"{number:05}", *["d"] * (depth - 1), "f"]) for number in range(10_000 // depth + 1)]
    check_paths(paths[:-1])
    with pytest.raises(ModelRejectedError, match="more than 10,000 folders"):
        check_paths(paths)


def test_a_path_is_not_deeper_than_anybody_lays_one() -> None:
    check_paths(["a/" * 128 + "b"])
    with pytest.raises(ModelRejectedError, match="128 folders deep"):
        check_paths(["a/" * 129 + "b"])
