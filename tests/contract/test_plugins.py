"""Engines and storages of other packages: the example of docs/plugins.md, and a package that is broken."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.agents import ask, ready, running_agent, wanted
from agent.peer import peer_server
from agent.support import storage_server
from modelshare import plugins
from modelshare.agent.engine_source import EngineSource
from modelshare.agent.errors import StopError
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import REPLY, write_gguf
from modelshare.server.storage.stores import open_store
from modelshare.server.storage_errors import StorageSettingError
from modelshare.wire.link import Answer
from programs import program, serving

pytestmark = pytest.mark.anyio

DOCS = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", DOCS, re.DOTALL))
LLAMA_SERVER = f"""#!{sys.executable}
import os, sys
reader, writer = os.pipe()  # the server ends when its standard input does
os.set_inheritable(writer, True)
os.dup2(reader, 0)
os.environ["ENGINE_API_KEY"] = os.environ["LLAMA_API_KEY"]
server = [sys.executable, "-m", "modelshare.agent.engines.llamacpp_server", "--alias", "x", "--context", "2048"]
os.execv(sys.executable, [*server, *sys.argv[1:]])
"""
"""llama.cpp's own server, as far as the example uses it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed, and a package whose plug-ins cannot be loaded."""
    source, site = tmp_path_factory.mktemp("example"), tmp_path_factory.mktemp("site")
    for name, content in FILES.items():
        (source / name).write_text(content)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", site, source], check=True, timeout=120
    )
    (site / "broken.py").write_text("raise RuntimeError('made for another version')\n")
    info = site / "modelshare_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: modelshare-broken\nVersion: 1.0\n")
    entries = {
        "broken": "broken:Engine",
        "lacking": "missing_module:Engine",
        "odd": "json:loads",
        "vllm": "broken:VLLM",
    }
    engines = "\n".join(f"{name} = {value}" for name, value in entries.items())
    storages = "broken = broken:open_store\ns3 = broken:open_store\n"
    (info / "entry_points.txt").write_text(f"[modelshare.engines]\n{engines}\n[modelshare.storages]\n{storages}")
    return site


@pytest.fixture
def installed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    program = tmp_path / "bin" / "llama-server"
    program.parent.mkdir()
    program.write_text(LLAMA_SERVER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(site)
    plugins.find.cache_clear()
    yield
    plugins.find.cache_clear()


def test_the_examples_are_short() -> None:
    assert all(len(content.splitlines()) <= 40 for content in FILES.values())


@pytest.mark.usefixtures("installed")
async def test_an_agent_serves_with_the_engine_of_another_package(tmp_path: Path) -> None:
    async with peer_server() as peer, storage_server() as storage:
        write_gguf(tmp_path / "model.gguf")
        storage.files = {"model.gguf": (tmp_path / "model.gguf").read_bytes()}
        async with running_agent(peer, storage, tmp_path / "agent", engine="llama-server") as agent:
            await peer.want(wanted(storage))
            await ready(peer)
            await peer.ask(ask())
            answer = json.loads((await peer.expect(Answer)).data)
            serving_ = agent.serving("dep_1")
            assert serving_ is not None
            assert serving_.engine.kind == "llama-server"
    assert answer["choices"][0]["message"]["content"] == REPLY


@pytest.mark.usefixtures("installed")
def test_without_being_asked_for_it_comes_after_modelshares_own(tmp_path: Path) -> None:
    kinds = EngineSource(tmp_path, None, None).kinds()
    assert {"llamacpp", "llama-server"} <= set(kinds)


@pytest.mark.usefixtures("installed")
def test_a_broken_plugin_harms_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kinds = EngineSource(tmp_path, None, None).kinds()
    assert "llamacpp" in kinds
    assert not {"broken", "lacking", "odd"} & set(kinds)
    for words in (
        "`broken` of modelshare-broken cannot be used (RuntimeError: made for another version): update ",
        "`lacking` of modelshare-broken needs the module missing_module: pip install 'modelshare-broken'",
        "`odd` of modelshare-broken cannot be used",
    ):
        assert words in caplog.text
    assert "`vllm`" not in caplog.text, "modelshare's own is used"
    with pytest.raises(StopError, match="modelshare-broken cannot be used"):
        EngineSource(tmp_path, "broken", None)


@pytest.mark.usefixtures("installed")
def test_a_platform_keeps_weights_in_the_storage_of_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts" / "weights").mkdir(parents=True)
    monkeypatch.setenv("NAS_MOUNTS", str(tmp_path / "mounts"))
    model = tmp_path / "model"
    model.mkdir()
    write_gguf(model / "model.gguf")
    with serving(tmp_path / "platform", program, storage_url="nas://weights/models") as server:
        project = server.project("acme")
        with server.client(project) as client:
            push_model(client, model, name="tiny")
    stored = [path.read_bytes() for path in (tmp_path / "mounts/weights/models/blobs").rglob("*") if path.is_file()]
    assert (model / "model.gguf").read_bytes() in stored
    assert not (tmp_path / "platform" / "data" / "storage").exists()


@pytest.mark.usefixtures("installed")
def test_a_storage_that_cannot_be_opened_says_whose_it_is(tmp_path: Path) -> None:
    for url, words in (
        ("broken://x", "modelshare-broken cannot be used (RuntimeError: made for another version)"),
        ("nas://", "nas://SHARE/FOLDER"),
        ("ftp://x", "must begin with one of broken://, file://, nas://, s3://"),
        ("s3://", "s3://BUCKET/PREFIX"),
    ):
        with pytest.raises(StorageSettingError, match=re.escape(words)):
            open_store(url, data_dir=tmp_path, secret=b"")


def test_a_folder_is_opened_by_its_url(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    open_store(folder.as_uri(), data_dir=tmp_path / "data", secret=b"")
    assert (folder / "blobs").is_dir()
    for url in ("file://host/x", "file:x", "file:///x?y=1"):
        with pytest.raises(StorageSettingError):
            open_store(url, data_dir=tmp_path, secret=b"")
