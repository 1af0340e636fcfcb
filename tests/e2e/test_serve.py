"""`modelshare serve` where it cannot start: one line that names what to change."""

import signal
from pathlib import Path

import pytest

from modelshare.cli.exits import ExitCode
from programs import serving
from shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell({"PATH": ""}, tmp_path)


def test_one_process_on_a_folder(tmp_path: Path, shell: Shell) -> None:
    serve = ["serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with serving(tmp_path) as server:
        assert "Another modelshare serves from" in shell.refused(*serve, code=ExitCode.USAGE)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving(tmp_path, platform_key=server.platform_key) as again:
        assert again.platform_key == server.platform_key, "nothing is left of a killed one"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/db", "`database_url`"),
        ("STORAGE_URL", "ftp://bucket", "`storage_url`"),
        ("PROT", "80", "no setting `prot`"),
    ],
)
def test_a_wrong_setting_is_named(shell: Shell, variable: str, value: str, says: str) -> None:
    shell.environment[f"MODELSHARE_{variable}"] = value

    line = shell.refused("serve", "--port", "0", code=ExitCode.USAGE)

    assert says in line
    assert "hush" not in line
