"""A file that changes while it is pushed: what is published is what it held at one moment, or the push stops."""

import hashlib
import mmap
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import pytest

from modelshare.client import Client
from modelshare.client.errors import ChangedError
from modelshare.client.push import Progress, PushPhase, push_model
from modelshare.wire.keys import ProjectWithKey
from programs import MODELSHARE, Server, serving, wait_until
from shell import shell, write_model
from storage_servers import s3_server
from uploading import PART, tar_of

PARTS = 4
WEIGHTS = "model.safetensors"
AT = 1000
"""The byte that changes; it lies in the first part."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", pad=PARTS * PART)


@dataclass
class _Once(Progress):
    """Does something at one moment of a push."""

    act: Callable[[], None]
    after: int
    """Bytes that were sent; beyond all of them: when everything is there, before it is compared."""
    _phase: PushPhase | None = None
    _sent: int = 0

    def phase(self, phase: PushPhase, total: int, done: int) -> None:
        del total, done
        self._phase = phase
        if phase is PushPhase.CHECKING:
            self._do()

    def moved(self, size: int) -> None:
        self._sent += size if self._phase is PushPhase.SENDING else 0
        if self._sent >= self.after:
            self._do()

    def _do(self) -> None:
        self.after = 1 << 60
        act, self.act = self.act, lambda: None
        act()


def _in_place(path: Path) -> None:
    """As a tool does that restores the time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(AT)
        file.write(b"changed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _regrown(path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, 10)
    path.write_bytes(content[:AT] + b"changed" + content[AT + 7 :])


def _replaced(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    _in_place(copy)
    copy.rename(path)


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("how", [_in_place, _regrown, _replaced, _shorter, _gone])
@pytest.mark.parametrize("after", [2 * PART, 1 << 50], ids=["while it is sent", "when all was sent"])
def test_a_change_stops_the_push_and_the_next_one_works(
    client: Client, folder: Path, how: Callable[[Path], None], after: int
) -> None:
    weights = folder / WEIGHTS
    kept = weights.read_bytes()
    with pytest.raises(ChangedError, match=f"{WEIGHTS} changed while it was being pushed. Push again"):
        push_model(client, folder, jobs=1, progress=_Once(lambda: how(weights), after))
    [upload] = client.uploads.list()
    assert upload.state == "open"
    assert upload.bytes_done > 0
    if how in {_shorter, _gone}:
        weights.write_bytes(kept)
    again = push_model(client, folder)
    assert again.model.status == "ready"
    assert _published(client, again.model.id) == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_change_that_the_file_system_does_not_tell_of_is_noticed(client: Client, folder: Path) -> None:
    """A page that is written through memory again, before the system has stored it, gets no new time."""
    with (folder / WEIGHTS).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[AT] ^= 1

        def change() -> None:
            memory[AT] ^= 1

        with pytest.raises(ChangedError):
            push_model(client, folder, jobs=1, progress=_Once(change, 2 * PART))
        assert client.models.list(limit=1).__next__().status == "uploading"
        pushed = push_model(client, folder)
    assert _published(client, pushed.model.id) == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def test_a_change_after_a_cut_is_noticed_in_what_was_sent_before(client: Client, folder: Path) -> None:
    with pytest.raises(ChangedError):
        push_model(client, folder, jobs=1, progress=_Once(lambda: _in_place(folder / WEIGHTS), 3 * PART))
    with pytest.raises(ChangedError):
        push_model(client, folder, jobs=1, progress=_Once(lambda: _in_place(folder / WEIGHTS), 1))
    assert push_model(client, folder).model.status == "ready"


def test_an_archive_that_changes_stops_the_push(client: Client, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar"
    archive.write_bytes(tar_of({path.name: path.read_bytes() for path in folder.iterdir()}, mode="w"))
    with pytest.raises(ChangedError, match=r"model\.tar changed"):
        push_model(client, archive, jobs=1, progress=_Once(lambda: _in_place(archive), 2 * PART))
    assert push_model(client, archive).model.status == "ready"


def test_a_file_that_is_being_written_is_not_published(
    server: Server, project: ProjectWithKey, client: Client, folder: Path, tmp_path: Path
) -> None:
    owner = shell(server.url, project.api_key, tmp_path / "owner")
    over = threading.Event()
    writes = 0

    def write() -> None:
        nonlocal writes
        while not over.wait(0.01):
            _in_place(folder / WEIGHTS)
            writes += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        words = [*MODELSHARE, "push", str(folder), "--name", "written"]
        push = subprocess.Popen(words, env=owner.environment, stdout=PIPE, stderr=PIPE, text=True)
        wait_until(lambda: push.poll() is not None or any(one.bytes_done for one in client.uploads.list()), "it sends")
        push.send_signal(signal.SIGSTOP)
        before = writes
        wait_until(lambda: writes > before + 1, "a whole write meanwhile")
        push.send_signal(signal.SIGCONT)
        output, errors = push.communicate()
    finally:
        over.set()
        writer.join()
    assert (push.returncode, output) == (1, "")
    assert "changed while it was being pushed. Push again when no program is writing to it." in errors
    assert {upload.state for upload in client.uploads.list()} <= {"open"}, "it may stop before it begins"
    assert {model.status for model in client.models.list()} <= {"uploading"}


def test_a_change_is_noticed_before_a_bucket_publishes_it(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(tmp_path / "s3") as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        with (
            serving(tmp_path / "platform", storage_url=bucket.url, uploads_part_size=str(PART)) as server,
            server.client(server.project("acme")) as client,
        ):
            with pytest.raises(ChangedError):
                push_model(client, folder, jobs=1, progress=_Once(lambda: _in_place(folder / WEIGHTS), 2 * PART))
            assert [upload.state for upload in client.uploads.list()] == ["open"]


def _published(client: Client, model_id: str) -> str:
    client.models.share(model_id)
    files = client.catalog.get(model_id).manifest["files"]
    return next(str(file["sha256"]) for file in files if file["path"] == WEIGHTS)
