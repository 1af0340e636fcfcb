"""Runs the real programs as child processes: `modelshare serve`, `modelshare agent`, and the CLI."""

import atexit
import contextlib
import functools
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from modelshare.client import Client
from modelshare.wire.keys import ProjectCreate, ProjectWithKey

T = TypeVar("T")
MODELSHARE = [sys.executable, "-m", "modelshare"]
SECRET = secrets.token_hex(32)
"""Shared by several processes on one database."""


class Forked:
    """A process that `warm_server` became, used as a `subprocess.Popen` is."""

    def __init__(self, words: list[str], *, stderr: IO[str], env: dict[str, str], cwd: Path) -> None:
        read, output = os.pipe()
        end, told = os.pipe()
        request = {"words": words, "environment": env, "folder": str(cwd)}
        requests = _warm_server()
        socket.send_fds(requests, [json.dumps(request).encode() + b"\n"], [output, stderr.fileno(), told])
        os.close(output)
        os.close(told)
        self.stdout: IO[str] | None = os.fdopen(read)
        self._end = os.fdopen(end)
        self.pid = int(self._end.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("modelshare serve", timeout or 0)
            self.returncode = int(self._end.readline())
            self._end.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _warm_server() -> socket.socket:
    """Where to ask for a server; the process lives as long as this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        words = [sys.executable, "-P", str(Path(__file__).with_name("warm_server.py")), str(theirs.fileno())]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


Process = subprocess.Popen[str] | Forked


@dataclass
class Server:
    """A running `modelshare serve`."""

    process: Process
    url: str
    platform_key: str
    log: Path

    def project(self, slug: str) -> ProjectWithKey:
        with Client(self.url, self.platform_key) as client:
            return client.platform.create_project(ProjectCreate(name=slug.title(), slug=slug))

    def client(self, project: ProjectWithKey) -> Client:
        return Client(self.url, project.api_key)


def program(words: list[str], *, stderr: IO[str], env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """`modelshare`, started as it is by everybody."""
    return subprocess.Popen(
        [*MODELSHARE, *words],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


@contextlib.contextmanager
def serving(
    folder: Path,
    start: Callable[..., Process] = Forked,
    /,
    *,
    port: int = 0,
    platform_key: str = "",
    **settings: str,
) -> Iterator[Server]:
    """Serves from `folder` for the duration of the block; `settings` become MODELSHARE_*."""
    folder.mkdir(exist_ok=True)
    log = folder / "server.log"
    settings = {"shutdown_notice_seconds": "0"} | settings
    environment = {**os.environ, **{f"MODELSHARE_{name.upper()}": value for name, value in settings.items()}}
    words = ["serve", "--json", "--port", str(port), "--data-dir", str(folder / "data")]
    with log.open("a") as errors:
        process = start(words, stderr=errors, env=environment, cwd=folder)
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


def stop(process: "subprocess.Popen[Any] | Forked", seconds: float = 20) -> None:
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
