"""`modelshare serve`: how it ends, and one line that names what to change where it cannot start."""

import signal
from pathlib import Path

import httpx
import pytest

from modelshare.cli.exit_codes import ExitCode
from programs import program, serving
from shell import Shell

BROWSER = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
STOP_SECONDS = 10


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell({"PATH": ""}, tmp_path)


def test_one_process_on_a_folder(tmp_path: Path, shell: Shell) -> None:
    serve = ["serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with serving(tmp_path, program) as server:
        assert "Another modelshare server uses" in shell.refused(*serve, code=ExitCode.USAGE)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with serving(tmp_path, platform_key=server.platform_key) as again:
        assert again.platform_key == server.platform_key, "nothing is left of a killed one"


def test_a_live_page_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """A browser's own requests: signing up, a project, and the events of its page of agents."""
    with serving(tmp_path, program) as server, httpx.Client(base_url=server.url, headers=BROWSER) as browser:
        form = {"name": "Ada", "email": "ada@example.org", "password": "a quiet walk home"}
        assert browser.post("/sign-up", data=form).is_redirect
        assert browser.post("/dashboard/-/new", data={"name": "Acme", "slug": "acme"}).is_redirect
        with browser.stream("GET", "/dashboard/acme/agents/events") as events:
            lines = events.iter_lines()
            assert next(lines).startswith("data: ")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=STOP_SECONDS) == 0
            assert list(lines)[-1:] == [""], "the last event came whole"
    assert "took too long" not in server.log.read_text()


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
