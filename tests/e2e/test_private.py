"""What the programs write is for their own user, and nobody reads a secret from the list of processes."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from programs import Server, agent, serving, wait_until
from shell import shell
from uploading import tar_of


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[Path]:
    """A folder where everybody may look, and a umask that takes nothing from anybody."""
    before = os.umask(0)
    for folder in ("data/storage/blobs", "data/storage/staging", "box/agent/weights"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("modelshare.db", "modelshare.db-wal", "modelshare.db-shm"):
        (tmp_path / "data" / file).touch(mode=0o644)
    yield tmp_path
    os.umask(before)


def readable_by_others(folder: Path, owned: int) -> list[str]:
    """Below `folder`: files with any right for others, and folders too, but for the first `owned` levels."""
    found = []
    for path in sorted(folder.rglob("*")):
        is_given = path.is_dir() and len(path.relative_to(folder).parts) <= owned
        if not is_given and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            found.append(f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}")
    return found


def enrolled(server: Server, folder: Path) -> None:
    project = server.project("acme")
    write_gguf(folder / "tiny.gguf", name="tiny")
    (folder / "tiny.tar.gz").write_bytes(tar_of({"tiny.gguf": (folder / "tiny.gguf").read_bytes()}))
    with server.client(project) as client:
        for name in ("tiny.gguf", "tiny.tar.gz"):
            model = push_model(client, folder / name, name=name.partition(".")[2].replace(".", "-")).model
        client.endpoints.create(EndpointCreate(slug="chat", model=model.id, tier="self_hosted"))
        key = client.join_keys.create(JoinKeyCreate(name="box")).key
        (folder / "join.key").write_text(f"{key}\n")
        with agent(server.url, folder / "box", None, "--join-key-file", str(folder / "join.key")) as process:
            wait_until(lambda: client.endpoints.get("chat").status is EndpointStatus.ACTIVE, "the agent serves")
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            assert len(tree) > 1, "the engine's too"
            assert not [one for one in tree if key in " ".join(one.cmdline())]
    login = shell(server.url, None, folder / "home").run("login", "--url", server.url, stdin=project.api_key)
    assert login.returncode == 0, login.stderr


def test_nothing_is_readable_by_others(careless: Path) -> None:
    with serving(careless) as server:
        enrolled(server, careless)
        assert readable_by_others(careless / "data", owned=1) == [], "while it runs"
    assert readable_by_others(careless / "data", owned=1) == []
    assert readable_by_others(careless / "box" / "agent", owned=0) == []
    [config] = (careless / "home").rglob("config.json")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_an_empty_file_is_no_join_key(tmp_path: Path) -> None:
    (tmp_path / "join.key").touch()
    said = shell("http://127.0.0.1:1", None, tmp_path).run("agent", "--join-key-file", "join.key")
    assert (said.returncode, "join.key is empty" in said.stderr) == (2, True), said.stderr
