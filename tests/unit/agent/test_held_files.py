"""What a machine that holds files serves, by digest alone, and when it refuses."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelshare.agent.errors import StopError
from modelshare.agent.hold.files import FileGoneError, FolderAwayError, HeldFiles, NotHeldError, UncheckedError
from modelshare.client.folder import LocalFile, plain_file

SHA256 = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> LocalFile:
    (tmp_path / "model").mkdir()
    location = tmp_path / "model" / "model.gguf"
    location.write_bytes(b"weights")
    return plain_file(location, "model.gguf")


@pytest.fixture
def held(tmp_path: Path, file: LocalFile) -> HeldFiles:
    (tmp_path / "data").mkdir()
    files = HeldFiles(tmp_path / "data")
    beside = file.location.with_name("config.json")
    beside.write_bytes(b"{}")
    both = [file, plain_file(beside, "config.json")]
    digests = files.hash(file.location.parent, both, lambda _: None)
    assert digests["model.gguf"] == SHA256
    with pytest.raises(NotHeldError):
        files.open(SHA256)  # hashed, but not registered
    files.serve(both, digests)
    return files


def content(held: HeldFiles) -> bytes:
    opened = held.open(SHA256)
    try:
        return opened.read(0, opened.identity.size)
    finally:
        opened.close()


def test_files_are_hashed_once_and_known_after_a_restart(tmp_path: Path, held: HeldFiles, file: LocalFile) -> None:
    assert content(held) == b"weights"
    again = HeldFiles(tmp_path / "data")
    assert content(again) == b"weights"
    read: list[int] = []
    again.hash(file.location.parent, [file], read.append)
    assert (sum(read), again.serves([SHA256])) == (7, True)
    assert (tmp_path / "data" / "held.json").stat().st_mode & 0o077 == 0


def test_a_touched_file_is_checked_and_served(held: HeldFiles, file: LocalFile) -> None:
    os.utime(file.location, ns=(5, 5))
    with pytest.raises(UncheckedError) as unchecked:
        held.open(SHA256)
    held.check(unchecked.value.location)
    assert content(held) == b"weights"
    assert held.changes() == {}


def _rewrite(file: Path) -> None:
    status = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time are as before


def _swap_for_link(file: Path) -> None:
    other = file.parent.parent / "other"
    other.write_bytes(b"weights")  # even with the same bytes: what was registered had no link
    file.unlink()
    file.symlink_to(other)


def _swap_for_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _swap_folder(file: Path) -> None:
    outside = file.parent.parent / "outside"
    outside.mkdir()
    (outside / file.name).write_bytes(b"secrets")
    file.parent.rename(file.parent.parent / "away")
    file.parent.symlink_to(outside)


@pytest.mark.parametrize(
    ("change", "is_missing"),
    [(_rewrite, False), (Path.unlink, True), (_swap_for_link, True), (_swap_for_pipe, True), (_swap_folder, False)],
)
def test_a_changed_file_is_not_served(
    held: HeldFiles, file: LocalFile, change: Callable[[Path], None], is_missing: bool
) -> None:
    change(file.location)
    changes = held.changes()
    assert changes[SHA256].is_missing is is_missing
    with pytest.raises(FileGoneError):
        held.open(SHA256)


def test_a_restored_file_is_served_again(held: HeldFiles, file: LocalFile) -> None:
    file.location.write_bytes(b"WEIGHTS")
    assert set(held.changes()) == {SHA256}
    file.location.write_bytes(b"weights")
    assert held.changes() == {}
    assert content(held) == b"weights"


def test_a_folder_that_is_not_there_says_nothing_about_its_files(held: HeldFiles, file: LocalFile) -> None:
    file.location.parent.rename(file.location.parent.with_name("unmounted"))
    assert held.changes() == {}
    with pytest.raises(FolderAwayError):
        held.open(SHA256)


def test_bytes_that_change_while_they_are_read_are_not_sent(held: HeldFiles, file: LocalFile) -> None:
    opened = held.open(SHA256)
    file.location.write_bytes(b"WEIGHTS")
    with pytest.raises(FileGoneError):
        opened.read(0, 7)
    opened.close()


def test_a_copy_elsewhere_in_the_folder_is_as_good(tmp_path: Path, held: HeldFiles, file: LocalFile) -> None:
    (file.location.parent / "copy.gguf").write_bytes(b"weights")
    copy = plain_file(file.location.parent / "copy.gguf", "copy.gguf")
    held.serve([copy], held.hash(file.location.parent, [copy], lambda _: None))
    file.location.unlink()
    assert held.changes() == {}
    assert content(held) == b"weights"


def test_a_link_out_of_the_folder_is_not_hashed(tmp_path: Path, held: HeldFiles, file: LocalFile) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    link = file.location.with_name("link.gguf")
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(StopError, match=r"link\.gguf is a link that leads outside the folder"):
        held.hash(file.location.parent, [plain_file(link, "link.gguf")], lambda _: None)


def test_what_was_stored_and_cannot_be_read_is_named(tmp_path: Path, held: HeldFiles) -> None:
    (tmp_path / "data" / "held.json").write_bytes(b"{")
    with pytest.raises(StopError, match=r"held\.json cannot be read\. Delete it"):
        HeldFiles(tmp_path / "data")
