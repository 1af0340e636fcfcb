"""The program's root: help, version, wrong usage, exit codes. No server needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.testing import CliRunner

import modelshare
from modelshare.cli.app import ENTRIES, Entry, app, load
from modelshare.cli.exit_codes import ExitCode
from modelshare.client import retry
from modelshare.wire.hub_tokens import key_of
from signing_keys import private_key, private_pem, public_pem

CLOSED = "http://127.0.0.1:1"
"""Nothing listens on port 1."""
NOBODY = "00000000-0000-7000-8000-000000000000"
runner = CliRunner()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODELSHARE_API_KEY", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSHARE_URL", CLOSED)
    monkeypatch.setenv("MODELSHARE_CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.0)


GROUPS = {entry.name: command for entry in ENTRIES if isinstance(command := load(entry), TyperGroup)}
LEAVES: list[tuple[str, ...]] = [(entry.name,) for entry in ENTRIES if entry.name not in GROUPS]
LEAVES += [(name, leaf) for name, group in GROUPS.items() for leaf in group.commands]


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for entry in ENTRIES:
        assert entry.name in result.stdout
    for code in ExitCode:
        assert str(int(code)) in result.stdout


def test_without_a_command_it_shows_help() -> None:
    assert runner.invoke(app, []).stdout.strip() == runner.invoke(app, ["--help"]).stdout.strip()


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).stdout == f"modelshare {modelshare.__version__}\n"


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    """It answers in a third of a second because neither the HTTP library nor the wire's types are imported."""
    program = (
        "import sys; sys.argv = ['modelshare', '--help']\n"
        "from modelshare.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "print(sorted({'httpx', 'pydantic', 'modelshare.client', 'modelshare.server'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [*LEAVES, *((name,) for name in GROUPS)], ids=" ".join)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "modelshare " + " ".join(command) in result.stdout


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_command_says_of_itself_what_the_list_says_of_it(entry: Entry) -> None:
    """The list stands beside the commands so that help need not import them; groups have their help from it."""
    command = load(entry)
    if not isinstance(command, TyperGroup):
        assert command.help
        assert entry.help.split(".")[0].split(":")[0] == command.help.split(".")[0].split(":")[0]


ARGUMENTS = {
    "models show": ["m"], "models usage": ["m"], "models rename": ["m", "n"], "share": ["m"],
    "models edit": ["m", "--license", "mit"],
    "models delete": ["m", "-y"], "models revalidate": ["m"], "models versions": ["m"], "unshare": ["m"],
    "sign": ["m", "--key", "KEY.pem"], "signers add": ["s", "--public-key", "KEY.pub"], "signers remove": ["s"],
    "models signature": ["m"], "models unsign": ["m"], "bom": ["m"], "manifest": ["m"], "pull": ["m", "."],
    "verify": [".", "--manifest", "m"], "storage move": ["--all", "--to", "own"], "storage cancel-move": ["m"],
    "import": ["hf:acme/tiny"], "imports cancel": ["i"],
    "register": ["s3://bucket/model", "--name", "m"],
    "storage set": ["s3://bucket/prefix", "--role-arn", "arn:aws:iam::123456789012:role/r"],
    "claim": ["msl_x"], "recall": ["m"], "uploads cancel": ["u"],
    "models promote": ["m", "1.0.0"], "models rollback": ["m", "1.0.0"],
    "models edit-version": ["m", "1.0.0", "--notes", "n"], "models delete-version": ["m", "1.0.0", "-y"],
    "deploy": ["m", "--tier", "free", "--slug", "s"], "endpoints explain": ["m", "--tier", "free"],
    "endpoints show": ["e"], "endpoints deactivate": ["e"], "endpoints activate": ["e"],
    "endpoints delete": ["e", "-y"], "endpoints update": ["e", "--own-file"], "endpoints hf-token": ["e"],
    "agents remove": ["a", "-y"], "agents suspend": ["a"], "join-keys create": ["j"], "join-keys revoke": ["j"],
    "webhooks create": ["https://w.example"], "webhooks show": ["w"], "webhooks update": ["w", "--on"],
    "webhooks delete": ["w", "-y"], "webhooks test": ["w"], "webhooks rotate": ["w"], "webhooks deliveries": ["w"],
    "webhooks redeliver": ["w", "d"],
    "projects quota": ["acme", "5GB"],
    "keys create": ["k"], "keys update": ["k", "--requests-per-minute", "9"],
    "keys rotate": ["k"], "keys revoke": ["k"], "keys suspend": ["k"], "keys resume": ["k"],
    "chat": ["e", "hello"],
}  # fmt: skip
OFFLINE = {
    *("serve", "demo", "db", "admin", "secrets", "backup", "restore", "doctor"),
    *("agent", "hold", "push", "login", "keys hf-token"),
}
ONLINE = [command for command in LEAVES if not {command[0], " ".join(command)} & OFFLINE]


def test_the_key_as_hugging_face_clients_take_it() -> None:
    """Needs no platform."""
    result = runner.invoke(app, ["keys", "hf-token"], env={"MODELSHARE_API_KEY": "ms_acme_x"})
    assert (result.exit_code, key_of(result.stdout.strip())) == (0, "ms_acme_x")


@pytest.mark.parametrize("command", ONLINE, ids=" ".join)
@pytest.mark.parametrize("json", [[], ["--json"]], ids=["words", "json"])
def test_every_command_says_when_the_platform_is_not_there(
    command: tuple[str, ...], json: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "KEY.pem").write_bytes(private_pem(private_key()))
    (tmp_path / "KEY.pub").write_text(public_pem(private_key()))
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, [*command, *ARGUMENTS.get(" ".join(command), []), *json])
    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stdout == ""
    assert result.stderr == f"Error: Cannot reach {CLOSED}: is `modelshare serve` running there?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mdels"], "No such command 'mdels'. Did you mean 'models'? See `modelshare --help`."),
        (["models"], "Missing command. See `modelshare models --help`."),
        (["deploy", "x", "--slug", "s"], "Missing option '--tier'. See `modelshare deploy --help`."),
        (["push", "/nowhere/at/all"], "does not exist. See `modelshare push --help`."),
        (["--nonsense"], "No such option: --nonsense. See `modelshare --help`."),
        (["keys", "create", "k", "--expires-in", "soon"], "Invalid duration 'soon'"),
        (["keys", "create", "k", "--scope", "everything"], "See `modelshare keys create --help`."),
        (
            ["deploy", str("0" * 8 + "-0000-7000-8000-" + "0" * 12), "--tier", "free", "--slug", "No!"],
            "Invalid `slug`",
        ),
        (["models", "edit", "m"], "Nothing to change"),
        (["projects", "quota", "acme", "much"], "Invalid size 'much'"),
        (["models", "rename", "m", "../evil"], "Invalid `name` '../evil': up to 96 letters"),
        (["keys", "create", "k", "--allow-ip", "nowhere"], "Invalid `allowed_ips`"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_two(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_what_is_deleted_for_good_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner.invoke(app, ["endpoints", "delete", "chat"])
    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr


@pytest.mark.parametrize("variable", [{"MODELSHARE_URL": "nowhere"}, {"MODELSHARE_API_KEY": "ms_ä"}])
def test_a_wrong_setting_is_wrong_usage(variable: dict[str, str]) -> None:
    result = runner.invoke(app, ["tiers"], env=variable)
    assert (result.exit_code, result.stderr.count("\n")) == (ExitCode.USAGE, 1)


def test_a_push_without_weights_fails_before_anything_is_sent(tmp_path: Path) -> None:
    result = runner.invoke(app, ["push", str(tmp_path)])
    assert result.exit_code == ExitCode.FAILED
    assert "contains no files" in result.stderr


def test_login_without_a_key_says_how_to_give_one() -> None:
    result = runner.invoke(app, ["login"], input="")
    assert result.exit_code == ExitCode.USAGE
    assert "MODELSHARE_API_KEY" in result.stderr
