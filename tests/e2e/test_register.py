"""`modelshare register`: a model in its owner's bucket, deployed by another project with a real agent."""

from pathlib import Path

from modelshare.demo.tiny_model import REPLY, write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from programs import agent, serving, wait_until
from shell import shell
from storage_servers import s3_server


def test_an_engine_runs_what_lies_in_somebodys_bucket(tmp_path: Path) -> None:
    """Until the owner replaces it: then nobody else gets it, and the engine that runs goes on."""
    with s3_server(tmp_path / "s3") as bucket, serving(tmp_path / "platform", storage_allow_private="true") as server:
        place = tmp_path / "s3" / bucket.bucket / "models" / "Tiny é"
        place.mkdir(parents=True)
        write_gguf(place / "tiny.gguf", loop=False)
        acme, other = server.project("acme"), server.project("other")
        owner = shell(server.url, acme.api_key, tmp_path / "owner")
        source = f"s3://{bucket.bucket}/models/Tiny é"
        assert "your project has no storage" in owner.refused("register", source, "--name", "tiny")
        keys = f"{bucket.access_key}\n{bucket.secret_key}\n"
        stored = owner.run("storage", "set", f"s3://{bucket.bucket}", "--endpoint", bucket.endpoint, stdin=keys)
        assert stored.returncode == 0, stored.stderr
        said = owner.says("register", source, "--name", "tiny", "--notes", "In place.")
        assert "Registered tiny 1.0.0: 1 file, " in said
        assert f"in {source}." in said
        assert "Next: modelshare share tiny" in said
        assert "Registered tiny 1.0.0" in owner.says("register", source, "--name", "tiny"), "the same"
        owner.says("share", "tiny")
        with server.client(other) as client, server.client(acme) as acmes:
            key = client.join_keys.create(JoinKeyCreate(name="box")).key
            client.endpoints.create(EndpointCreate(slug="chat", model="acme/tiny", tier="self_hosted"))
            with agent(server.url, tmp_path / "agent", key):
                wait_until(lambda: client.endpoints.get("chat").status is EndpointStatus.ACTIVE, "it answers", 90)
                deployer = shell(server.url, other.api_key, tmp_path / "deployer")
                assert REPLY in deployer.says("chat", "chat", "Hi")
                weights = place / "tiny.gguf"
                weights.write_bytes(weights.read_bytes() + b"\0")
                # A second machine asks for a grant, and finds the change.
                with agent(server.url, tmp_path / "second", key, "--name", "second"):

                    def has_failed() -> bool:
                        return acmes.models.get("tiny").status == "failed"

                    wait_until(has_failed, "the change is noticed", 90)
                reason = acmes.models.get("tiny").status_reason or ""
                assert reason.startswith("tiny.gguf was replaced after this version was published."), reason
                assert REPLY in deployer.says("chat", "chat", "Hi")
        assert list((tmp_path / "platform").rglob("*.gguf")) == []
