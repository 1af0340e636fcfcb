import os
from pathlib import Path

import pytest

from modelshare.client.errors import SourceError
from modelshare.client.source import read_source


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


def test_a_path_is_in_normal_form_c_wherever_the_folder_comes_from(folder: Path) -> None:
    (folder / "e\u0301.txt").write_text("macOS writes names decomposed")
    assert "\u00e9.txt" in [file.path for file in read_source(folder).files]


def test_a_link_inside_is_the_file_it_names(folder: Path) -> None:
    (folder / "again.safetensors").symlink_to("model.safetensors")
    assert ("again.safetensors", 7) in [(file.path, file.size) for file in read_source(folder).files]


def test_a_link_out_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not the model's")
    (folder / "secret.txt").symlink_to("../secret")
    with pytest.raises(SourceError, match=r"link out of the folder.*cp -rL"):
        read_source(folder)


def test_a_link_to_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="link to a folder"):
        read_source(folder)


def test_a_pipe_is_refused_without_waiting_for_it(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(SourceError, match="no ordinary file"):
        read_source(folder)


def test_a_broken_link_is_refused(folder: Path) -> None:
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(SourceError, match="Cannot read"):
        read_source(folder)


def test_an_empty_directory_and_one_without_weights(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no files"):
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
    with pytest.raises(SourceError, match="cannot be pushed by itself"):
        read_source(tmp_path / filename)


def test_an_empty_file_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    with pytest.raises(SourceError, match="is empty"):
        read_source(tmp_path / "a.gguf")
    with pytest.raises(SourceError, match="No such file"):
        read_source(tmp_path / "b.gguf")
