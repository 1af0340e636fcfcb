"""Stock OCI clients pull a model from a folder and from a bucket, and get the files that were pushed, byte by byte."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oras.client
import pytest
from modelpack_client import ModelPackClient

from modelshare.client.push import push_model
from modelshare.wire.keys import ProjectWithKey
from programs import Server, serving, wait_until
from shell import write_model
from storage_servers import s3_server

SIZE = 3 << 20
"""Bytes of the weights: too large to be sent by the registry itself."""
SECONDS = 60
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
needs_containerd = pytest.mark.skipif(
    shutil.which("containerd") is None or os.geteuid() != 0, reason="containerd is not installed, or this is not root"
)


@dataclass(frozen=True)
class Pushed:
    """A model on a platform, and the folder that it was pushed from."""

    server: Server
    project: ProjectWithKey
    files: dict[str, bytes]

    @property
    def host(self) -> str:
        return self.server.url.removeprefix("http://")

    @property
    def key(self) -> str:
        return self.project.api_key


@pytest.fixture(scope="module", params=["folder", "bucket"])
def pushed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    folder = tmp_path_factory.mktemp("oci")
    model = write_model(folder / "model", pad=SIZE)
    (model / "sub").mkdir()
    (model / "sub" / "vocab.txt").write_bytes(b"a\nb\n")
    (model / "sub" / "same.txt").write_bytes(b"a\nb\n")
    with contextlib.ExitStack() as stack:
        if request.param == "bucket":
            bucket = stack.enter_context(s3_server(folder / "buckets"))
            with pytest.MonkeyPatch.context() as environment:
                for name, value in bucket.environ.items():
                    environment.setenv(name, value)
                server = stack.enter_context(serving(folder / "platform", storage_url=bucket.url))
        else:
            server = stack.enter_context(serving(folder / "platform"))
        project = server.project("acme")
        with server.client(project) as client:
            push_model(client, model, name="Tiny-1B", version="1.0.0+a")
        yield Pushed(server, project, files_in(model))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*words: str | Path, succeeds: bool = True) -> str:
    """What the program writes."""
    ended = subprocess.run(words, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert (ended.returncode == 0) == succeeds, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def unpacked(blobs: Path, manifest: bytes) -> dict[str, bytes]:
    """The files that a manifest names, out of a folder of blobs by their SHA-256."""
    return {
        layer["annotations"]["org.opencontainers.image.title"]: (blobs / layer["digest"][7:]).read_bytes()
        for layer in json.loads(manifest)["layers"]
    }


def skopeo(*words: str | Path, succeeds: bool = True) -> str:
    return run("skopeo", "--insecure-policy", *words, succeeds=succeeds)


@needs_skopeo
def test_skopeo(pushed: Pushed, tmp_path: Path) -> None:
    image = f"docker://{pushed.host}/acme/tiny-1b"
    login = ("--src-tls-verify=false", "--src-creds", f"token:{pushed.key}")
    skopeo("copy", *login, f"{image}:1.0.0_a", f"dir:{tmp_path}")
    manifest = (tmp_path / "manifest.json").read_bytes()
    assert unpacked(tmp_path, manifest) == pushed.files
    digest = skopeo("manifest-digest", tmp_path / "manifest.json").strip()
    inspect = ("inspect", "--raw", "--tls-verify=false", "--registry-token", pushed.key)
    assert skopeo(*inspect, f"{image}@{digest}").encode() == manifest
    listed = skopeo("list-tags", "--tls-verify=false", "--creds", f"token:{pushed.key}", image)
    assert json.loads(listed)["Tags"] == ["1.0.0_a", "latest"]


@needs_skopeo
@pytest.mark.parametrize("pushed", ["folder"], indirect=True)
def test_what_skopeo_says_when_it_is_refused(pushed: Pushed, tmp_path: Path) -> None:
    image = f"docker://{pushed.host}/acme/tiny-1b"
    other = pushed.server.project("other").api_key
    for key, name, words in (
        (other, "acme/tiny-1b", "There is no such repository, or you may not pull from it."),
        (pushed.key, "acme/none", "There is no such repository, or you may not pull from it."),
        (pushed.key, "acme/tiny-1b:2.0.0", "There is no version `2.0.0` of this model. Tags: 1.0.0_a, latest."),
        ("wrong", "acme/tiny-1b", "The password is unknown, expired or revoked."),
    ):
        inspect = ("inspect", "--raw", "--tls-verify=false", "--creds", f"token:{key}")
        assert words in skopeo(*inspect, f"docker://{pushed.host}/{name}", succeeds=False)
    assert "unauthorized" in skopeo("inspect", "--raw", "--tls-verify=false", "--no-creds", image, succeeds=False)
    login = ("--tls-verify=false", "--creds", f"token:{pushed.key}")
    skopeo("copy", "--src-tls-verify=false", "--src-creds", f"token:{pushed.key}", image, f"oci:{tmp_path}:x")
    to = ("--dest-tls-verify=false", "--dest-creds", f"token:{pushed.key}")
    assert "modelshare push" in skopeo("copy", *to, f"oci:{tmp_path}:x", f"{image}:2.0.0", succeeds=False)
    assert "modelshare push" in skopeo("delete", *login, f"{image}:1.0.0_a", succeeds=False)


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Path]:
    """A running containerd; its folder."""
    folder = tmp_path / "containerd"
    folder.mkdir()
    config = {"root": folder / "root", "state": folder / "state"}
    lines = ["version = 2", *(f'{name} = "{path}"' for name, path in config.items())]
    lines += ['disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]']
    for section in ("grpc", "ttrpc", "debug"):
        lines += [f"[{section}]", f'address = "{folder / section}.sock"']
    (folder / "config.toml").write_text("\n".join(lines))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["containerd", "--config", folder / "config.toml"], stdout=log, stderr=log)
    try:
        wait_until((folder / "grpc.sock").exists, "containerd listens")
        yield folder
    finally:
        process.terminate()
        process.wait(SECONDS)


def fetch(containerd: Path, host: str, key: str) -> dict[str, bytes]:
    """The files that containerd fetched."""
    reference = f"{host}/acme/tiny-1b:1.0.0_a"
    ctr = ("ctr", "--address", containerd / "grpc.sock")
    run(*ctr, "content", "fetch", "--plain-http", "--user", f"token:{key}", reference)
    blobs = containerd / "root" / "io.containerd.content.v1.content" / "blobs" / "sha256"
    [manifest] = [data for data in map(Path.read_bytes, blobs.iterdir()) if data.startswith(b'{"schemaVersion"')]
    return unpacked(blobs, manifest)


@needs_containerd
def test_containerd(pushed: Pushed, containerd: Path) -> None:
    assert fetch(containerd, pushed.host, pushed.key) == pushed.files


@needs_containerd
@pytest.mark.parametrize("pushed", ["folder"], indirect=True)
def test_containerd_goes_on_where_it_was_cut(pushed: Pushed, containerd: Path) -> None:
    with cut_once(pushed.server.url, after=SIZE // 2) as (url, requests):
        assert fetch(containerd, url.removeprefix("http://"), pushed.key) == pushed.files
    assert any(b"\nRange: bytes=" in request and b"GET /blobs/" in request for request in requests)


@contextlib.contextmanager
def cut_once(url: str, *, after: int) -> Iterator[tuple[str, list[bytes]]]:
    """A way to the server at `url` that cuts the first connection once that has carried so many bytes; all requests."""
    host, _, port = url.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    requests = list[bytes]()
    is_cut = threading.Event()

    def back(server: socket.socket, client: socket.socket) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                carried += len(data)
                if carried > after and not is_cut.is_set():
                    is_cut.set()
                    break
                client.sendall(data)
        for end in (server, client):
            with contextlib.suppress(OSError), end:
                end.shutdown(socket.SHUT_RDWR)

    def towards(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                requests.append(data)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                threading.Thread(target=towards, args=(client, server), daemon=True).start()
                threading.Thread(target=back, args=(server, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    assert is_cut.is_set()


def test_oras(pushed: Pushed, tmp_path: Path) -> None:
    client: Any = oras.client.OrasClient(hostname=pushed.host, insecure=True, auth_backend="token", tls_verify=False)
    client.auth.set_basic_auth("token", pushed.key)
    target = f"{pushed.host}/acme/tiny-1b"
    client.pull(target=f"{target}:1.0.0_a", outdir=str(tmp_path))
    assert files_in(tmp_path) == pushed.files
    assert client.get_tags(target) == ["1.0.0_a", "latest"]


def test_modelpack_client(pushed: Pushed, tmp_path: Path) -> None:
    client: Any = ModelPackClient(insecure=True)
    login = tmp_path / "login.json"
    client.login(pushed.host, username="token", password=pushed.key, config_path=login)
    client.pull(f"{pushed.host}/acme/tiny-1b:latest", tmp_path / "model", config_path=login)
    assert files_in(tmp_path / "model") == pushed.files
