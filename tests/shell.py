"""The command line, as used by someone with their own key and folder."""

import contextlib
import io
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from modelshare.cli.app import app
from modelshare.cli.exit_codes import ExitCode
from programs import MODELSHARE, Forked, stop
from uploading import tiny_model

_SERVERS = {"serve", "demo", "db", "admin", "backup", "restore", "doctor"}
"""Commands that import the server, and change the configuration of their process, such as logging."""


@dataclass(frozen=True)
class Shell:
    """A shell for working with one project."""

    environment: dict[str, str] = field(repr=False)
    folder: Path

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a command, if possible in this process, since starting one takes longer than most commands."""
        if words[0] in _SERVERS and not stdin:
            return self._run_forked(*words)
        if words[0] in _SERVERS or words[0] == "agent":
            return self.run_program(*words, stdin=stdin)
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            contextlib.chdir(self.folder),
            mock.patch("sys.stdin", io.StringIO(stdin)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                app(words, prog_name="modelshare")
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def run_program(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs the program `modelshare` in a separate process."""
        return subprocess.run(
            [*MODELSHARE, *words], input=stdin, capture_output=True, text=True, env=self.environment, cwd=self.folder,
            check=False, timeout=120,
        )  # fmt: skip

    def _run_forked(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in a process that has imported the server already."""
        with tempfile.TemporaryFile("w+") as errors:
            process = Forked(list(words), stderr=errors, env=self.environment, cwd=self.folder)
            try:
                assert process.stdout is not None
                out = process.stdout.read()
                code = process.wait(120)
            finally:
                stop(process)
            errors.seek(0)
            return subprocess.CompletedProcess(words, code, out, errors.read())

    def says(self, *words: str) -> str:
        """The complete output of a successful command."""
        result = self.run(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    def json(self, *words: str) -> Any:
        """The output of a command with `--json`."""
        result = self.run(*words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def refused(self, *words: str, code: ExitCode = ExitCode.FAILED) -> str:
        """The error message of a failing command, which must be the last line and the only error."""
        result = self.run(*words)
        assert result.returncode == code, result.stdout + result.stderr
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert result.stderr.splitlines()[-1:] == lines
        assert "Traceback" not in result.stderr
        return lines[0]


def shell(url: str, key: str | None, folder: Path) -> Shell:
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELSHARE_")}
    environment |= {"MODELSHARE_CONFIG": str(folder / "config.json"), "MODELSHARE_URL": url, "COLUMNS": "300"}
    if key:
        environment["MODELSHARE_API_KEY"] = key
    return Shell(environment, folder)


def write_model(folder: Path, *, seed: int = 0, pad: int = 0) -> Path:
    """Writes a small Hugging Face directory; `pad` is the number of additional bytes of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tiny_model(seed=seed, pad=pad).items():
        (folder / name).write_bytes(data)
    return folder
