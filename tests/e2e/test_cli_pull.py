"""`modelshare pull`, `verify` and `manifest` against a real server."""

import hashlib
import json
from pathlib import Path

import pytest

from modelshare.cli.exit_codes import ExitCode
from modelshare.wire.keys import ProjectWithKey
from programs import Server
from shell import Shell, shell, write_model
from uploading import tiny_model


@pytest.fixture
def owner(server: Server, project: ProjectWithKey, tmp_path: Path) -> Shell:
    return shell(server.url, project.api_key, tmp_path / "owner")


def test_out_again_and_compared(server: Server, project: ProjectWithKey, owner: Shell, tmp_path: Path) -> None:
    for seed in (0, 1):
        owner.says("push", str(write_model(tmp_path / f"v{seed}", seed=seed)), "--name", "tiny")
    assert "Pulled tiny 1.0.1" in owner.says("pull", "tiny", "latest")
    assert "3 files" in owner.says("pull", "tiny@1.0.0", "first")
    first = owner.folder / "first"
    assert {path.name: path.read_bytes() for path in first.iterdir()} == tiny_model()
    assert "0 B downloaded, 3 were there already" in owner.says("pull", "tiny@1.0.0", "first")

    (owner.folder / "m.json").write_text(owner.run("manifest", "tiny@1.0.0").stdout, encoding="utf-8")
    digest = f"sha256:{hashlib.sha256((owner.folder / 'm.json').read_bytes()).hexdigest()}"
    versions = {each["version"]: each["manifest_digest"] for each in owner.json("models", "versions", "tiny")}
    assert versions["1.0.0"] == digest
    assert digest in owner.says("manifest", "tiny@1.0.0", "--output", "again.json")

    offline = shell("http://127.0.0.1:9", None, owner.folder)
    assert "is tiny 1.0.0: 3 files agree" in offline.says("verify", "first", "--manifest", "m.json")
    (first / "config.json").write_text("{}")
    (first / "README.md").unlink()
    (first / "notes").write_text("")
    found = offline.run("verify", "first", "--manifest", "m.json")
    assert found.returncode == ExitCode.FAILED
    assert found.stdout.split() == ["differs", "config.json", "missing", "README.md", "extra", "notes"]
    assert "Error: first is not tiny 1.0.0: 3 files differ." in found.stderr
    as_json = json.loads(offline.run("verify", "first", "--manifest", "m.json", "--json").stdout)
    assert (as_json["ok"], as_json["extra"]) == (False, ["notes"])
    assert "files agree" in owner.says("verify", "latest", "--manifest", "tiny")
    assert "is not a manifest" in offline.refused("verify", "first", "--manifest", "first/notes", code=ExitCode.USAGE)

    assert "You have no model `other`" in owner.refused("pull", "other", "x")
    assert "There is no version `9.9.9`" in owner.refused("pull", "tiny@9.9.9", "x")
    stranger = shell(server.url, server.project("stranger").api_key, tmp_path / "stranger")
    model = owner.json("models", "show", "tiny")["id"]
    assert "no such model" in stranger.refused("pull", model, "x")
    owner.says("share", "tiny")
    assert "You have no model" in stranger.refused("pull", f"{project.slug}/tiny", "x")
    assert "files agree" in stranger.says("verify", str(owner.folder / "latest"), "--manifest", f"{project.slug}/tiny")
    assert [each["action"] for each in owner.json("audit", "--action", "model.download")] == ["model.download"] * 3
