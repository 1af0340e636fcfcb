"""The command line, as somebody with a key and a folder of their own uses it."""

import contextlib
import io
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from modelshare.cli.app import app
from modelshare.cli.exit_codes import ExitCode
from programs import MODELSHARE
from uploading import tiny_model

_SETTING_UP = {"serve", "demo", "agent", "db", "admin"}
"""Commands that set up the process in which they run."""


@dataclass(frozen=True)
class Shell:
    """A shell in which somebody works with one project."""

    environment: dict[str, str] = field(repr=False)
    folder: Path

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command, in this process where that will do: starting one takes longer than most commands."""
        if words[0] in _SETTING_UP:
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
        """The program `modelshare`, in a process of its own."""
        return subprocess.run(
            [*MODELSHARE, *words], input=stdin, capture_output=True, text=True, env=self.environment, cwd=self.folder,
            check=False, timeout=120,
        )  # fmt: skip

    def says(self, *words: str) -> str:
        """Everything a command that succeeds prints."""
        result = self.run(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    def json(self, *words: str) -> Any:
        """What a command prints with `--json`."""
        result = self.run(*words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def refused(self, *words: str, code: ExitCode = ExitCode.FAILED) -> str:
        """The one line that a command ends with."""
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
    """A small Hugging Face directory; `pad` more bytes of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tiny_model(seed=seed, pad=pad).items():
        (folder / name).write_bytes(data)
    return folder
