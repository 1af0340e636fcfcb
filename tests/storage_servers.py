"""A real S3 server for tests of storage: rclone's, which verifies signatures."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

_DEADLINE = 120
"""Seconds that a server may take to start."""


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    bucket: str
    access_key: str = "AKIAMODELSHARE000001"  # rclone rejects ids of fewer than 20 characters
    secret_key: str = "secret-of-the-test-bucket"

    @property
    def url(self) -> str:
        """Value of the setting `storage_url`, with a prefix, since a bucket may be shared with other applications."""
        return f"s3://{self.bucket}/weights?endpoint={self.endpoint}"

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables from which boto3 reads the keys."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def client(self) -> Any:
        """An S3 client, as the bucket's owner uses it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(request_checksum_calculation="when_required"),
        )


@contextlib.contextmanager
def s3_server(folder: Path, *, browsers: bool = False) -> Iterator[S3Server]:
    """An S3 server with one bucket, whose objects are files in `folder`. `browsers`: allow requests from any origin."""
    (folder / "models").mkdir(parents=True)
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", "models")
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{server.access_key},{server.secret_key}", "--log-level", "CRITICAL", str(folder)]
    command += ["--allow-origin", "*"] if browsers else []
    with subprocess.Popen(command) as process:
        try:
            _await_port(port, process)
            yield server
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError("rclone's S3 server does not come up")


@contextlib.contextmanager
def aws_server() -> Iterator[str]:
    """URL of an S3, IAM and STS server that checks rights (moto); its first requests are not checked."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environ = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1000000"}
    with subprocess.Popen(command, env=environ, **quiet) as process:  # type: ignore[call-overload] # by name
        try:
            _await_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
