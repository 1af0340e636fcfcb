"""The command line as people use it, against a real server."""

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from modelshare.cli.exit_codes import ExitCode
from modelshare.wire.keys import ProjectWithKey
from programs import Server, serving
from shell import Shell, shell, write_model

NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="module")
def acme(server: Server) -> ProjectWithKey:
    return server.project("acme")


@pytest.fixture
def owner(server: Server, acme: ProjectWithKey, tmp_path: Path) -> Shell:
    return shell(server.url, acme.api_key, tmp_path / "owner")


@pytest.fixture(scope="module")
def borg(server: Server) -> ProjectWithKey:
    return server.project("borg")


@pytest.fixture
def deployer(server: Server, borg: ProjectWithKey, tmp_path: Path) -> Shell:
    return shell(server.url, borg.api_key, tmp_path / "deployer")


@pytest.fixture
def stranger(server: Server, tmp_path: Path) -> Shell:
    return shell(server.url, None, tmp_path / "stranger")


def first_word_of_lines(text: str) -> Sequence[str]:
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def test_from_push_to_endpoint_and_back(owner: Shell, deployer: Shell, stranger: Shell, server: Server) -> None:
    path = write_model(owner.folder / "tiny-chat")
    pushed = owner.run_program("push", str(path))
    assert pushed.returncode == 0, pushed.stderr
    model_id = pushed.stdout.strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", model_id)
    assert "tiny-chat 1.0.0 is ready" in pushed.stderr
    assert "Next: modelshare share tiny-chat" in pushed.stderr

    assert first_word_of_lines(owner.says("models", "list"))[:2] == ["NAME", "tiny-chat"]
    shown = owner.says("models", "show", "tiny-chat")
    assert re.search(r"architecture +LlamaForCausalLM", shown)
    edited = owner.json("models", "edit", "tiny-chat", "--description", "Says hello.", "--tag", "chat", "--tag", "tiny")
    assert (edited["description"], edited["tags"]) == ("Says hello.", ["chat", "tiny"])

    refusal = deployer.refused("deploy", "acme/tiny-chat", "--tier", "self_hosted", "--slug", "chat")
    assert "There is no model `acme/tiny-chat`" in refusal
    assert "Other projects may deploy it on `self_hosted`" in owner.says("share", "tiny-chat")
    assert "acme/tiny-chat" in stranger.says("catalog", "tiny")
    assert stranger.json("catalog", "--license", "apache-2.0")[0]["id"] == model_id
    assert stranger.json("catalog", "--role", "shared") == []

    explained = deployer.run("endpoints", "explain", "acme/tiny-chat", "--tier", "free")
    assert (explained.returncode, explained.stdout.splitlines()[0]) == (ExitCode.FAILED, "Not possible:")
    refusal = deployer.refused("deploy", "acme/tiny-chat", "--tier", "free", "--slug", "chat")
    assert "self_hosted" in refusal

    deployed = deployer.run("deploy", "acme/tiny-chat", "--tier", "self_hosted", "--slug", "chat")
    assert deployed.returncode == 0, deployed.stderr
    assert (
        deployed.stdout == f"{server.url}/{deployer.json('endpoints', 'show', 'chat')['base_url'].split('/', 3)[3]}\n"
    )
    assert f"MODELSHARE_JOIN_KEY=msj_... modelshare agent --url {server.url}" in deployed.stderr
    assert "chat" in first_word_of_lines(deployer.says("endpoints", "list"))
    assert deployer.json("endpoints", "update", "chat", "--version", "1.0.0")["version"] == "1.0.0"
    assert "does not contain the model `other.gguf`" in deployer.refused(
        "endpoints", "update", "chat", "--file", "other.gguf"
    )
    assert re.search(
        r"version +latest", deployer.says("endpoints", "update", "chat", "--version", "latest", "--own-file")
    )

    assert "keeps 1 active endpoint(s) serving, 1 of which belong to other projects" in owner.says(
        "unshare", "tiny-chat", "--dry-run"
    )
    assert "still use this model" in owner.refused("models", "delete", "tiny-chat", "--yes")
    assert "Existing endpoints keep serving" in owner.says("unshare", "tiny-chat")
    assert "not shared" in owner.refused("unshare", "tiny-chat")
    assert "inactive" in deployer.says("endpoints", "deactivate", "chat")
    deployer.refused("endpoints", "activate", "chat")
    assert "Deleted chat" in deployer.says("endpoints", "delete", "chat", "--yes")
    assert "Deleted tiny-chat" in owner.says("models", "delete", "tiny-chat", "-y")
    assert owner.json("models", "list") == []


def test_the_same_name_in_several_projects_is_a_question(owner: Shell, deployer: Shell, server: Server) -> None:
    other = shell(server.url, server.project("other").api_key, owner.folder.parent / "other")
    for index, each in enumerate((owner, other)):
        each.says("push", str(write_model(each.folder / "common", seed=index)))
        each.says("share", "common")
    refusal = deployer.refused("deploy", "common", "--tier", "self_hosted", "--slug", "common")
    assert "`acme/common`" in refusal
    assert "`other/common`" in refusal
    mine = owner.json("models", "list")[0]["id"]
    assert deployer.json("deploy", "acme/common", "--tier", "self_hosted", "--slug", "common")["model"] == mine
    assert owner.json("deploy", "common", "--tier", "free", "--slug", "own")["model"] == mine


def test_login_is_for_the_other_commands(stranger: Shell, acme: ProjectWithKey, server: Server) -> None:
    assert "modelshare login" in stranger.refused("models", "list", code=ExitCode.UNREACHABLE)
    wrong = stranger.run("login", stdin="ms_acme_wrong\n")
    assert wrong.returncode == ExitCode.UNREACHABLE
    assert not (stranger.folder / "config.json").exists()
    right = stranger.run("login", stdin=f"{acme.api_key}\n")
    assert right.returncode == 0, right.stderr
    assert acme.api_key not in right.stdout + right.stderr
    assert stat.S_IMODE((stranger.folder / "config.json").stat().st_mode) == 0o600
    del stranger.environment["MODELSHARE_URL"]
    stranger.says("models", "list")


def test_login_with_a_platform_key(stranger: Shell, server: Server) -> None:
    assert stranger.run("login", stdin=f"{server.platform_key}\n").returncode == 0


def test_keys(owner: Shell, server: Server) -> None:
    created = owner.json("keys", "create", "reader", "--scope", "models", "--expires-in", "2h")
    assert created["expires_at"] - created["created_at"] == 7200
    reader = shell(server.url, created["key"], owner.folder.parent / "reader")
    reader.says("models", "list")
    assert "scope `endpoints`" in reader.refused("endpoints", "list")
    rotated = owner.run("keys", "rotate", created["id"])
    assert rotated.stdout.startswith("ms_acme_")
    assert "The old value works until" in rotated.stderr
    assert created["key"] not in owner.says("keys", "list")
    assert "Key reader is suspended." in owner.says("keys", "suspend", created["id"])
    assert "suspended" in owner.says("keys", "list")
    assert owner.json("keys", "resume", created["id"])["suspended_at"] is None
    owner.says("keys", "revoke", created["id"])
    reader.refused("models", "list", code=ExitCode.UNREACHABLE)


def test_join_keys_and_agents(owner: Shell, server: Server) -> None:
    created = owner.run("join-keys", "create", "box", "--expires-in", "1h")
    key = created.stdout.strip()
    assert key.startswith("msj_")
    assert f"MODELSHARE_JOIN_KEY={key} modelshare agent --url {server.url}" in created.stderr
    [listed] = owner.json("join-keys", "list")
    assert (listed["name"], "key" in listed) == ("box", False)
    owner.says("join-keys", "revoke", listed["id"])
    assert "No agents yet" in owner.says("agents", "list")
    assert "There is no agent `box`" in owner.refused("agents", "suspend", "box")
    assert "There is no agent `box`" in owner.refused("agents", "remove", "box", "--yes")


def test_what_needs_no_key(stranger: Shell) -> None:
    assert first_word_of_lines(stranger.says("tiers"))[-1] == "self_hosted"
    assert {tier["slug"] for tier in stranger.json("tiers")} >= {"free", "self_hosted"}


def test_audit_and_usage(owner: Shell) -> None:
    owner.says("keys", "create", "for-the-log")
    assert owner.json("audit", "--limit", "1")[0]["action"] == "key.create"
    assert "key.create" in owner.says("audit")
    (entry,) = owner.json("audit", "--action", "key.create", "--limit", "1")
    assert owner.json("audit", "--target", entry["target"], "--outcome", "done") == [entry]
    assert owner.json("audit", "--actor", entry["actor"], "--action", "webhook") == []
    assert owner.json("usage", "--by", "model,tier") == []
    assert owner.says("usage", "export").startswith("day,endpoint,model,")
    exported = owner.run("usage", "export", "--format", "json", "--output", "usage.json")
    assert (exported.returncode, exported.stderr.strip()) == (0, "Wrote usage.json.")
    assert "--from is after --to" in owner.refused(
        "usage", "export", "--from", "2026-02-02", "--to", "2026-02-01", code=ExitCode.USAGE
    )


def test_refusals_of_the_server_are_one_line(owner: Shell) -> None:
    assert "There is no such model" in owner.refused("models", "show", NOBODY)
    assert "You have no model `nothing`" in owner.refused("models", "show", "nothing")
    owner.refused("share", NOBODY)
    owner.refused("deploy", NOBODY, "--tier", "free", "--slug", "x")
    owner.refused("endpoints", "show", "nothing")
    owner.refused("chat", "nothing", "hello")


def test_serve_says_what_keeps_it_from_starting(tmp_path: Path, server: Server) -> None:
    port = server.url.rpartition(":")[2]
    here = shell(server.url, None, tmp_path / "here")
    taken = here.refused("serve", "--port", port, "--data-dir", "data", code=ExitCode.USAGE)
    assert f"Cannot listen on 127.0.0.1:{port}" in taken
    here.environment["MODELSHARE_UPLOADS_PART_SIZE"] = "tiny"
    assert "uploads_part_size" in here.refused("serve", "--data-dir", "data", code=ExitCode.USAGE)


def test_db_upgrade(tmp_path: Path) -> None:
    here = shell("http://unused", None, tmp_path / "here")
    revision = here.json("db", "upgrade", "--data-dir", "data")["revision"]
    assert (here.folder / "data" / "modelshare.db").exists()
    assert f"at revision {revision}" in here.says("db", "upgrade", "--data-dir", "data")
