import os
from pathlib import Path

import pytest

from modelshare.client.errors import SourceError
from modelshare.client.source import PushSource, find_secrets, read_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "tiny-chat"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    return model


def test_a_directory_is_its_files(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    source = read_source(folder)
    assert [(file.path, file.size) for file in source.files] == [
        ("1_Pooling/config.json", 2),
        ("config.json", 2),
        ("model.safetensors", 7),
    ]
    assert (source.name, source.size, source.is_archive) == ("tiny-chat", 11, False)


def test_junk_stays_at_home(folder: Path) -> None:
    for name in (".git/HEAD", ".cache/x.safetensors", "__pycache__/a.pyc", "sub/.DS_Store", "a.safetensors.incomplete"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("junk")
    assert [file.path for file in read_source(folder).files] == ["config.json", "model.safetensors"]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def paths(source: PushSource) -> list[str]:
    return [file.path for file in source.files]


def test_what_may_be_secret_stays_at_home_and_is_named(folder: Path) -> None:
    write(folder, ".env", "id_rsa", ".netrc", ".venv/lib/x.py", "wandb/run/a", "runs/b", "training_args.bin")
    write(folder, ".gitattributes", "sub/optimizer.pt")
    (folder / ".venv" / "python").symlink_to("/usr/bin/python3")
    source = read_source(folder)
    assert paths(source) == [".gitattributes", "config.json", "model.safetensors"]
    named = {".env", "id_rsa", ".netrc", ".venv/", "wandb/", "runs/", "training_args.bin", "sub/optimizer.pt"}
    assert {found.path for found in source.left_out} == named


def test_patterns_and_the_ignore_file(folder: Path) -> None:
    write(folder, ".env", ".env.example", "a.log", "keep.log", "wandb/a", "wandb/b", "notes.md", "sub/notes.md")
    (folder / ".modelshareignore").write_text("# ours\n*.log\n!keep.log\n!.env.example\n")
    source = read_source(folder, include=["wandb/a"], exclude=["/notes.md"])
    assert paths(source) == [
        *(".env.example", "config.json", "keep.log", "model.safetensors", "sub/notes.md", "wandb/a"),
    ]
    assert list(source.include) == ["keep.log", ".env.example", "wandb/a"]
    assert "wandb/" in {found.path for found in source.left_out}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"include": ["!x"]}, "--include is not a valid pattern"),
        ({"exclude": [""]}, "--exclude is not a valid pattern"),
        ({"exclude": ["x" * 301]}, "--exclude is not a valid pattern"),
        ({"exclude": ["x"] * 201}, "--exclude has 201 patterns"),
    ],
)
def test_what_is_no_pattern(folder: Path, fields: dict[str, list[str]], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read_source(folder, **fields)


def test_an_ignore_file_that_is_none(folder: Path) -> None:
    (folder / ".modelshareignore").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="not valid UTF-8"):
        read_source(folder)


@pytest.mark.parametrize("to", ["loop", "other", "./loop"])
def test_a_link_to_itself_is_named(folder: Path, to: str) -> None:
    (folder / "loop").symlink_to(to)
    (folder / "other").symlink_to("loop")
    with pytest.raises(SourceError, match=r"(loop|other) is a link that points to itself"):
        read_source(folder)


@pytest.mark.parametrize("names", [("\u00fcber.txt", "u\u0308ber.txt"), ("\u00fc/a", "u\u0308/a")])
def test_names_that_differ_in_their_normal_form_are_told_apart(folder: Path, names: tuple[str, str]) -> None:
    write(folder, *names)
    with pytest.raises(SourceError, match=r"Two files have the name .*(U\+0308|U\+00FC)") as error:
        read_source(folder)
    assert "U+00FC" in error.value.message
    assert "U+0308" in error.value.message


def test_a_name_that_is_not_in_utf8(folder: Path) -> None:
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "w"):  # noqa: PTH123 - bytes are no Path
        pass
    with pytest.raises(SourceError, match="is not valid UTF-8"):
        read_source(folder)


def test_one_part_of_a_split_model_brings_its_sisters(tmp_path: Path) -> None:
    write(tmp_path, "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "other.gguf", "m-00001-of-00003.gguf")
    source = read_source(tmp_path / "m-00002-of-00002.gguf")
    assert paths(source) == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert source.name == "m"
    write(tmp_path, "m-00003-of-00003.gguf", "m-00002-of-00003.gguf.part")
    with pytest.raises(SourceError, match=r"m-00002-of-00003.gguf is missing.*\.part is an unfinished download"):
        read_source(tmp_path / "m-00001-of-00003.gguf")


def test_a_shard_that_only_the_index_knows(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}')
    read_source(folder)  # the index of shards that were merged to one file
    write(folder, "one.safetensors")
    with pytest.raises(SourceError, match=r"two.safetensors is missing.*index.json lists it"):
        read_source(folder)
    index.write_text("{")
    read_source(folder)  # what is wrong with it, the server says


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("b.safetensor", "Rename it to b.safetensors"),
        ("b.gguf.txt", "Rename it to b.gguf"),
        ("b-00001-of-00002.safetensors", "b-00002-of-00002.safetensors is missing"),
    ],
)
def test_names_that_tell_what_is_wrong(folder: Path, name: str, words: str) -> None:
    write(folder, name)
    with pytest.raises(SourceError, match=words):
        read_source(folder)
    read_source(folder, exclude=[name])


def test_what_looks_like_a_key_is_found_in_small_files(folder: Path) -> None:
    (folder / "train.py").write_text(f"x = 1\ntoken = 'hf_{'aB1' * 12}'\n")
    [found] = find_secrets(read_source(folder))
    assert str(found) == "train.py, line 2, appears to contain a Hugging Face token."


def test_a_path_is_in_normal_form_c_wherever_the_folder_comes_from(folder: Path) -> None:
    (folder / "e\u0301.txt").write_text("macOS writes names decomposed")
    assert "\u00e9.txt" in [file.path for file in read_source(folder).files]


def test_a_link_inside_is_the_file_it_names(folder: Path) -> None:
    (folder / "again.safetensors").symlink_to("model.safetensors")
    assert ("again.safetensors", 7) in [(file.path, file.size) for file in read_source(folder).files]


def test_a_link_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not the model's")
    (folder / "secret.txt").symlink_to("../secret")
    with pytest.raises(SourceError, match=r"leads outside the folder.*cp -rL"):
        read_source(folder)


def test_a_link_to_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="link to a folder"):
        read_source(folder)


def test_a_pipe_is_refused_without_waiting_for_it(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(SourceError, match="not a regular file"):
        read_source(folder)


def test_a_broken_link_is_refused(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(SourceError, match="Cannot read"):
        read_source(folder)


def test_an_empty_directory_and_one_without_weights(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="contains no files"):
        read_source(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError, match="no weights"):
        read_source(tmp_path)


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "M.SAFETENSORS", "sub/m.gguf"])
def test_whether_weights_are_welcome_is_for_the_server_to_say(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("w")
    assert len(read_source(tmp_path).files) == 1


@pytest.mark.parametrize(
    ("filename", "name", "is_archive"),
    [
        ("Qwen3-0.6B.Q8_0.gguf", "Qwen3-0.6B.Q8_0", False),
        ("model.tar", "model", True),
        ("model.tar.gz", "model", True),
        ("model.TGZ", "model", True),
        ("model.tar.bz2", "model", True),
        ("model.tar.zst", "model", True),
        ("no name.tar", None, True),
        ("a--b.gguf", None, False),
    ],
)
def test_a_single_file(tmp_path: Path, filename: str, name: str | None, is_archive: bool) -> None:
    (tmp_path / filename).write_text("data")
    source = read_source(tmp_path / filename)
    assert [file.path for file in source.files] == [filename]
    assert (source.name, source.is_archive) == (name, is_archive)


@pytest.mark.parametrize("filename", ["model.safetensors", "model.zip", "readme.md"])
def test_other_files_are_no_model(tmp_path: Path, filename: str) -> None:
    (tmp_path / filename).write_text("data")
    with pytest.raises(SourceError, match="cannot be pushed on its own"):
        read_source(tmp_path / filename)


def test_an_empty_file_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    with pytest.raises(SourceError, match="is empty"):
        read_source(tmp_path / "a.gguf")
    with pytest.raises(SourceError, match="No such file"):
        read_source(tmp_path / "b.gguf")
