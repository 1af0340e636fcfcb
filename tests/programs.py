"""Runs the real programs as child processes: `modelshare serve`, `modelshare agent`, and the CLI."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modelshare.client import Client
from modelshare.wire.keys import ProjectCreate, ProjectWithKey

T = TypeVar("T")
MODELSHARE = [sys.executable, "-m", "modelshare"]
SECRET = secrets.token_hex(32)
"""Shared by several processes on one database."""


@dataclass
class Server:
    """A running `modelshare serve`."""

    process: subprocess.Popen[str]
    url: str
    platform_key: str
    log: Path

    def project(self, slug: str) -> ProjectWithKey:
        with Client(self.url, self.platform_key) as client:
            return client.platform.create_project(ProjectCreate(name=slug.title(), slug=slug))

    def client(self, project: ProjectWithKey) -> Client:
        return Client(self.url, project.api_key)


@contextlib.contextmanager
def serving(folder: Path, *, port: int = 0, platform_key: str = "", **settings: str) -> Iterator[Server]:
    """Serves from `folder` for the duration of the block; `settings` become MODELSHARE_*."""
    folder.mkdir(exist_ok=True)
    log = folder / "server.log"
    environment = {**os.environ, **{f"MODELSHARE_{name.upper()}": value for name, value in settings.items()}}
    words = [*MODELSHARE, "serve", "--json", "--port", str(port), "--data-dir", str(folder / "data")]
    with log.open("a") as errors:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=folder, start_new_session=True
        )
    try:
        assert process.stdout is not None
        first = _first_object(process.stdout)
        assert first, f"the server did not start: {log.read_text()[-3000:]}"
        yield Server(process, first["url"], first.get("platform_key", platform_key), log)
    finally:
        stop(process)


@contextlib.contextmanager
def agent(url: str, folder: Path, join_key: str | None = None, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs an agent for the duration of the block; its log is `agent.log` in `folder`."""
    folder.mkdir(exist_ok=True)
    words = [*MODELSHARE, "agent", "--url", url, "--data-dir", str(folder / "agent"), "--name", "box", *more]
    environment = {**os.environ, "MODELSHARE_JOIN_KEY": join_key or ""}
    with (folder / "agent.log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    try:
        yield process
    finally:
        stop(process)


def _first_object(lines: Iterable[str]) -> dict[str, Any]:
    """The JSON object at the start of a program's output; empty if there is none."""
    printed = ""
    for line in lines:
        printed += line
        if line == "}\n":
            return dict(json.loads(printed))
    return {}


def stop(process: "subprocess.Popen[Any]", seconds: float = 20) -> None:
    """Sends SIGTERM, and SIGKILL to the whole group if that does not suffice."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def wait_until(condition: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Polls until the condition is truthy, and returns its value; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
