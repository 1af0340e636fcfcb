"""The data folder: one agent at a time, one identity."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelshare.agent.errors import StopError
from modelshare.agent.identity import Identity, forget_identity, load_identity, lock_data_dir, save_identity

HOLDER = """
import sys
from pathlib import Path
from modelshare.agent.identity import lock_data_dir
with lock_data_dir(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_identity_is_kept_privately_and_forgotten(tmp_path: Path) -> None:
    assert load_identity(tmp_path) is None
    save_identity(tmp_path, Identity("agent_1", "msa_secret"))
    assert load_identity(tmp_path) == Identity("agent_1", "msa_secret")
    assert (tmp_path / "identity.json").stat().st_mode & 0o777 == 0o600
    forget_identity(tmp_path)
    assert load_identity(tmp_path) is None


def test_a_damaged_identity_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(StopError, match="Delete it, and start the agent with a new join key"):
        load_identity(tmp_path)


def test_a_second_agent_on_the_folder_is_told_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StopError, match=rf"\(process {first.pid}\) is running on"), lock_data_dir(tmp_path):
            pass
        first.kill()
    with lock_data_dir(tmp_path):
        pass
