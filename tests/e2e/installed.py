"""A home that has nothing but what the platform's installer put into it, and a shell in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TOOLS = (Path("/usr/bin"), Path("/bin"))
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))


@dataclass(frozen=True)
class Home:
    folder: Path

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Package indexes stay as they are set; nothing else of this process's Python is seen."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELSHARE_", "PYTHON"))}
        kept.pop("VIRTUAL_ENV", None)
        cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        path = ":".join(map(str, (self.folder / "tools", *TOOLS)))
        return {**kept, "HOME": str(self.folder), "XDG_CACHE_HOME": cache, "PATH": path, "COLUMNS": "300", **more}

    def offer(self, *, uv: bool) -> None:
        """A suitable Python, and uv or not."""
        tools = self.folder / "tools"
        tools.mkdir(parents=True, exist_ok=True)
        for name, program in {"python3": Path(sys.executable).resolve(), "uv": UV if uv else None}.items():
            (tools / name).unlink(missing_ok=True)
            if program:
                (tools / name).symlink_to(program)

    def run(
        self, script: str, cwd: Path | None = None, more: Mapping[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-euo", "pipefail", "-c", script]
        environment = self.environment(more or {})
        return subprocess.run(
            words,
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            env=environment,
            timeout=300,
        )

    def says(self, script: str, cwd: Path | None = None, more: Mapping[str, str] | None = None, stdin: str = "") -> str:
        """The output of a script that succeeds."""
        done = self.run(script, cwd, more, stdin)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @property
    def program(self) -> str:
        return f"{self.folder}/.local/bin/modelshare"
