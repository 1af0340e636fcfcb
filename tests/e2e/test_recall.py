"""A model shared by a link, deployed by who claimed it, called back; with the real server, machine and engine."""

import json
from pathlib import Path

from modelshare.cli.exit_codes import ExitCode
from modelshare.demo.tiny_model import REPLY, write_gguf
from programs import agent, serving, wait_until
from shell import shell


def test_from_the_claim_to_the_deletion(tmp_path: Path) -> None:
    with serving(tmp_path / "platform") as server:
        owner = shell(server.url, server.project("acme").api_key, tmp_path / "owner")
        deployer = shell(server.url, server.project("borealis").api_key, tmp_path / "deployer")
        stranger = shell(server.url, server.project("cyan").api_key, tmp_path / "stranger")
        write_gguf(owner.folder / "tiny.gguf")
        owner.says("push", "tiny.gguf", "--name", "tiny")
        link = owner.run("share", "tiny", "--link", "--max-uses", "1", "--expires-in", "1h").stdout.strip()
        assert deployer.json("catalog") == []
        assert "acme/tiny is in your catalog now" in deployer.says("claim", link)
        assert "has reached its maximum number of uses" in stranger.refused("claim", link)
        assert stranger.json("catalog") == []
        assert "still shared with certain projects only" in owner.says("share", "tiny", "--yes")
        assert stranger.json("catalog") == []
        assert "Share it with everyone? Add --yes" in owner.refused("share", "tiny", "--public", code=ExitCode.USAGE)

        join_key = deployer.json("join-keys", "create", "box")["key"]
        box = tmp_path / "box"
        with agent(server.url, box, join_key):
            deployer.says("deploy", "acme/tiny", "--tier", "self_hosted", "--slug", "chat", "--wait")
            assert REPLY in deployer.says("chat", "chat", "hello")
            assert list((box / "agent").rglob("weights/*"))

            reason = ("--reason", "Its licence was withdrawn.")
            refused = owner.refused("recall", "tiny", "--in", "1h", code=ExitCode.USAGE)
            assert "--reason" in refused
            assert "--in DURATION or --now" in owner.refused("recall", "tiny", *reason, code=ExitCode.USAGE)
            said = owner.says("recall", "tiny", "--in", "1h", *reason, "--yes")
            assert "Endpoints still serving: 1. Machines that may hold the weights: 1." in said
            assert deployer.json("catalog") == []
            assert REPLY in deployer.says("chat", "chat", "hello"), "until the deadline it serves"
            assert "Warning: chat: acme/tiny was recalled by its owner; it stops at" in deployer.says(
                "endpoints", "list"
            )

            owner.says("recall", "tiny", "--now", *reason, "--yes")

            def confirmed() -> bool:
                state = json.loads(owner.run("recall", "tiny", "--json").stdout)
                return any(release["confirmed_at"] for release in state["weight_deletions"])

            wait_until(confirmed, "the machine says that the weights are deleted")
            assert list((box / "agent").rglob("weights/*")) == []
            assert "recalled by its owner" in deployer.refused("chat", "chat", "hello")
            assert "recalled by its owner" in deployer.refused("endpoints", "activate", "chat")
            assert "Cancel the recall first" in owner.refused("share", "tiny")
            assert "is not recalled" in owner.says("recall", "tiny", "--cancel")
            assert "in the public catalog" in owner.says("share", "tiny")
