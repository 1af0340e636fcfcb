"""Whatever the umask and the folder: private files are private, and there whole or not at all."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelshare import private_files

MAKERS = 8
CREATE = """
import sys
from pathlib import Path
from modelshare import private_files
sys.stdout.write("ready\\n"); sys.stdout.flush()
for line in sys.stdin:
    own = (line.strip() + sys.argv[1]) * 1000
    print(private_files.create(Path(line.strip()), own.encode()).decode(), flush=True)
"""


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """What a service manager's umask may be at worst."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_processes_that_make_a_file_at_once_all_get_the_same_one(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for n in range(MAKERS)
    ]
    try:
        for maker in makers:
            assert maker.stdout
            assert maker.stdout.readline() == "ready\n"
        for turn in range(100):
            path = tmp_path / str(turn)
            for maker in makers:
                assert maker.stdin
                maker.stdin.write(f"{path}\n")
                maker.stdin.flush()
            got = {maker.stdout.readline() for maker in makers if maker.stdout}
            assert got == {f"{path.read_text()}\n"}
            assert mode(path) == 0o600
        assert len(list(tmp_path.iterdir())) == 100, "nothing is left beside them"
    finally:
        for maker in makers:
            maker.communicate(timeout=30)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    assert private_files.create(tmp_path / "a", b"one") == b"one"
    assert private_files.create(tmp_path / "a", b"two") == b"one"


def test_a_file_is_replaced_as_a_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_bytes(b"of an older release")
    assert mode(path) == 0o666
    private_files.replace(path, b"old")
    private_files.replace(path, b"new")
    assert (path.read_bytes(), mode(path), list(tmp_path.iterdir())) == (b"new", 0o600, [path])


def test_what_cannot_be_put_into_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        private_files.replace(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_is_there_is_taken_away_from_others(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    private_files.folder(tmp_path / "folder")
    private_files.folder(tmp_path / "new")
    private_files.touch(tmp_path / "file")
    private_files.touch(tmp_path / "empty")
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        "folder": 0o700,
        "new": 0o700,
        "file": 0o600,
        "empty": 0o600,
    }
    assert (tmp_path / "file").read_bytes() == b"x"
