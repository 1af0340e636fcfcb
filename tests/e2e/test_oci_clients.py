"""Stock OCI clients pull a model, wherever it is stored, byte by byte."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import oras.client
import pytest
from modelpack_client import ModelPackClient

from hub_clients import KINDS, Hub, files_in, written
from programs import wait_until
from shell import write_model

SIZE = 3 << 20
"""Bytes of the weights: too large to be sent by the registry itself."""
SECONDS = 60
EVERYWHERE = pytest.mark.parametrize("hub", KINDS, indirect=True)
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
needs_containerd = pytest.mark.skipif(
    shutil.which("containerd") is None or os.geteuid() != 0, reason="containerd is not installed, or this is not root"
)


@pytest.fixture(scope="session")
def files(hubs: Mapping[str, Hub], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What every project has as `Tiny-1B`."""
    folder = write_model(tmp_path_factory.mktemp("oci") / "model", pad=SIZE)
    written(folder, {"sub/vocab.txt": b"a\nb\n", "sub/same.txt": b"a\nb\n"})
    for hub in hubs.values():
        hub.publish(folder, "Tiny-1B", "1.0.0+a")
    return files_in(folder)


def reference(hub: Hub) -> str:
    return f"{hub.host}/{hub.repository('tiny-1b')}"


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
@EVERYWHERE
def test_skopeo(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    image = f"docker://{reference(hub)}"
    login = ("--src-tls-verify=false", "--src-creds", f"token:{hub.key}")
    skopeo("copy", *login, f"{image}:1.0.0_a", f"dir:{tmp_path}")
    manifest = (tmp_path / "manifest.json").read_bytes()
    assert unpacked(tmp_path, manifest) == files
    digest = skopeo("manifest-digest", tmp_path / "manifest.json").strip()
    inspect = ("inspect", "--raw", "--tls-verify=false", "--registry-token", hub.key)
    assert skopeo(*inspect, f"{image}@{digest}").encode() == manifest
    listed = skopeo("list-tags", "--tls-verify=false", "--creds", f"token:{hub.key}", image)
    assert json.loads(listed)["Tags"] == ["1.0.0_a", "latest"]


@needs_skopeo
def test_what_skopeo_says_when_it_is_refused(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    image = f"docker://{reference(hub)}"
    other = hub.server.project("elsewhere").api_key
    for key, name, words in (
        (other, "acme/tiny-1b", "There is no such repository, or you may not pull from it."),
        (hub.key, "acme/none", "There is no such repository, or you may not pull from it."),
        (hub.key, "acme/tiny-1b:2.0.0", "There is no version `2.0.0` of this model. Tags: 1.0.0_a, latest."),
        ("wrong", "acme/tiny-1b", "The password is unknown, expired or revoked."),
    ):
        inspect = ("inspect", "--raw", "--tls-verify=false", "--creds", f"token:{key}")
        assert words in skopeo(*inspect, f"docker://{hub.host}/{name}", succeeds=False)
    assert "unauthorized" in skopeo("inspect", "--raw", "--tls-verify=false", "--no-creds", image, succeeds=False)
    login = ("--tls-verify=false", "--creds", f"token:{hub.key}")
    skopeo("copy", "--src-tls-verify=false", "--src-creds", f"token:{hub.key}", image, f"oci:{tmp_path}:x")
    to = ("--dest-tls-verify=false", "--dest-creds", f"token:{hub.key}")
    assert "modelshare push" in skopeo("copy", *to, f"oci:{tmp_path}:x", f"{image}:2.0.0", succeeds=False)
    assert "modelshare push" in skopeo("delete", *login, f"{image}:1.0.0_a", succeeds=False)


@pytest.fixture
def containerd() -> Iterator[Path]:
    """A running containerd; its folder, whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ctr-", dir="/tmp") as folder:
        yield from _containerd(Path(folder))


def _containerd(folder: Path) -> Iterator[Path]:
    config = {"root": folder / "root", "state": folder / "state"}
    lines = ["version = 2", *(f'{name} = "{path}"' for name, path in config.items())]
    lines += ['disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]']
    for section in ("grpc", "ttrpc", "debug"):
        lines += [f"[{section}]", f'address = "{folder / section}.sock"']
    (folder / "config.toml").write_text("\n".join(lines))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["containerd", "--config", folder / "config.toml"], stdout=log, stderr=log)
    try:
        socket_file = folder / "grpc.sock"
        wait_until(lambda: socket_file.exists() or process.poll() is not None, "containerd listens")
        if process.poll() is not None:
            pytest.skip(f"containerd cannot run here: {(folder / 'log').read_text()[-500:]}")
        yield folder
    finally:
        process.terminate()
        process.wait(SECONDS)


def fetch(containerd: Path, host: str, hub: Hub) -> dict[str, bytes]:
    """The files that containerd fetched."""
    name = f"{host}/{hub.repository('tiny-1b')}:1.0.0_a"
    ctr = ("ctr", "--address", containerd / "grpc.sock")
    run(*ctr, "content", "fetch", "--plain-http", "--user", f"token:{hub.key}", name)
    blobs = containerd / "root" / "io.containerd.content.v1.content" / "blobs" / "sha256"
    [manifest] = [data for data in map(Path.read_bytes, blobs.iterdir()) if data.startswith(b'{"schemaVersion"')]
    return unpacked(blobs, manifest)


@needs_containerd
@pytest.mark.parametrize("hub", ["bucket"], indirect=True)
def test_containerd(hub: Hub, files: dict[str, bytes], containerd: Path) -> None:
    assert fetch(containerd, hub.host, hub) == files


@needs_containerd
def test_containerd_goes_on_where_it_was_cut(hub: Hub, files: dict[str, bytes], containerd: Path) -> None:
    with cut_once(hub.server.url, after=SIZE // 2) as (url, requests):
        assert fetch(containerd, url.removeprefix("http://"), hub) == files
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


@EVERYWHERE
def test_oras(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    client: Any = oras.client.OrasClient(hostname=hub.host, insecure=True, auth_backend="token", tls_verify=False)
    client.auth.set_basic_auth("token", hub.key)
    target = reference(hub)
    client.pull(target=f"{target}:1.0.0_a", outdir=str(tmp_path))
    assert files_in(tmp_path) == files
    assert client.get_tags(target) == ["1.0.0_a", "latest"]


@EVERYWHERE
def test_modelpack_client(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    client: Any = ModelPackClient(insecure=True)
    login = tmp_path / "login.json"
    client.login(hub.host, username="token", password=hub.key, config_path=login)
    client.pull(f"{reference(hub)}:latest", tmp_path / "model", config_path=login)
    assert files_in(tmp_path / "model") == files
