"""What `modelshare hold` refuses before it hashes or connects."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelshare.cli.app import app
from modelshare.cli.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model.tar"], "model.tar is an archive. Unpack it, and hold the folder."),
        (["model", "--rate", "5kB/s"], "the least is 10kB/s"),
        (["model", "--hours", "night"], "Use a form such as 22:00-06:00"),
        (["model", "--name", "a b"], "Invalid `name` 'a b'"),
        (["model", "--version", "one"], "Invalid `version` 'one'"),
        (["model"], "These files are not registered yet, which needs your project's key"),
    ],
    ids=["archive", "rate", "hours", "name", "version", "no-key"],
)
def test_it_says_what_to_change(words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "model.tar").write_bytes(b"tar")
    for name in ("MODELSHARE_API_KEY", "MODELSHARE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSHARE_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["hold", *words])
    assert result.exit_code in {ExitCode.FAILED, ExitCode.USAGE}
    assert says in result.stderr
