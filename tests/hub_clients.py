"""Unmodified clients of other forms, and the platform that they are tried with."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from huggingface_hub import HfApi

from holding import Publish, holder_in_a_thread
from modelshare.client import Client
from modelshare.client.push import push_model, wait_until_ready
from modelshare.wire.keys import ProjectWithKey
from modelshare.wire.registering import ModelRegister
from modelshare.wire.storage import StorageSet
from programs import Server, serving, wait_until
from storage_servers import S3Server, s3_server
from uploading import PART

OFFLINE: Final = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
PUSHED: Final = ("platform", "bucket", "relayed")
"""Where pushed files are: in the platform's folder, or in the project's own bucket, with or without signed URLs."""
KINDS: Final = (*PUSHED, "in_place", "held")
"""Where a project's files are: pushed, registered where they lie in a bucket, or held by their owner's machine."""
SECONDS: Final = 120
LIMITS: Final = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")


@dataclass(frozen=True)
class Hub:
    """A platform, and a project on it."""

    server: Server
    owner: ProjectWithKey
    kind: str
    home: Path
    """A folder for clients' caches."""
    publish_by: Publish

    @property
    def endpoint(self) -> str:
        return f"{self.server.url}/hf"

    @property
    def host(self) -> str:
        return self.server.url.removeprefix("http://")

    @property
    def key(self) -> str:
        return self.owner.api_key

    @property
    def api(self) -> HfApi:
        return self.api_of(self.key)

    def api_of(self, token: str) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=token)

    def repository(self, name: str) -> str:
        return f"{self.owner.slug}/{name}"

    def publish(self, folder: Path, name: str, version: str = "1.0.0") -> None:
        """Makes a folder a version, by the way of this kind."""
        with self.server.client(self.owner) as client:
            self.publish_by(client, folder, name, version)

    def versions(self, name: str) -> dict[str, str]:
        with self.server.client(self.owner) as client:
            return wait_until(lambda: _done(client, name), "no version is being processed")

    def run(self, *words: str, token: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a program with `HF_ENDPOINT` and `HF_TOKEN`, as a user would. Programs of one test share a cache."""
        own = {"HF_HOME": str(self.home / "hf"), "LLAMA_CACHE": str(self.home / "llama")}
        named = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": token or self.key}
        return subprocess.run(
            words,
            env={**os.environ, **OFFLINE, **dict.fromkeys(LIMITS, str(SECONDS)), **own, **named, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=self.home,
        )

    def hf(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The `hf` command."""
        return self.run(str(Path(sys.executable).with_name("hf")), *arguments, **environment)

    def python(self, code: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-W", "ignore", "-c", code, token=token)


def _done(client: Client, name: str) -> dict[str, str]:
    """The versions and their states; empty while one is being processed."""
    found = {each.version: each.status.value for each in client.models.versions(name)}
    return {} if "processing" in found.values() else found


@contextlib.contextmanager
def hub_server(folder: Path) -> Iterator[Mapping[str, Hub]]:
    """One platform with a project of each kind: `acme`, `acme-bucket`, `acme-relayed`, `acme-in-place`, `acme-held`."""
    with (
        contextlib.ExitStack() as running,
        pytest.MonkeyPatch.context() as patch,
        s3_server(folder / "buckets") as bucket,
        serving(folder / "platform", uploads_part_size=str(PART), storage_allow_private="true") as server,
    ):
        patch.setenv("HF_HOME", str(folder / "hf"))  # read by hf-xet, which remembers what it has sent where
        for limit in LIMITS:
            patch.setattr(f"huggingface_hub.constants.{limit}", SECONDS)
        hubs = {}
        for kind in KINDS:
            owner = server.project("acme" if kind == "platform" else f"acme-{kind.replace('_', '-')}")
            publish: Publish = _push
            if kind == "in_place":
                publish = _Registering(bucket)
            elif kind == "held":
                publish = running.enter_context(holder_in_a_thread(server.url, owner.api_key, folder / "holder"))
            elif kind != "platform":
                with server.client(owner) as client:
                    url = f"s3://{bucket.bucket}/{owner.slug}"
                    client.storage.set(StorageSet(url=url, relayed=kind == "relayed", **_access(bucket)))
            hubs[kind] = Hub(server, owner, kind, folder, publish)
        yield hubs


def _access(bucket: S3Server) -> dict[str, str]:
    keys = {"access_key_id": bucket.access_key, "secret_access_key": bucket.secret_key}
    return {"endpoint": bucket.endpoint} | keys


def _push(client: Client, folder: Path, name: str, version: str) -> None:
    push_model(client, folder, name=name, version=version)


@dataclass(frozen=True)
class _Registering:
    bucket: S3Server

    def __call__(self, client: Client, folder: Path, name: str, version: str) -> None:
        place = f"in-place/{name}/{version}"
        objects = self.bucket.client()
        for path, content in files_in(folder).items():
            objects.put_object(Bucket=self.bucket.bucket, Key=f"{place}/{path}", Body=content)
        source = f"s3://{self.bucket.bucket}/{place}"
        registered = client.models.register(
            ModelRegister(source=source, name=name, version=version, **_access(self.bucket))
        )
        wait_until_ready(client, registered.model, version)


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """Without what clients add of their own."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
