"""`modelshare storage …` and `modelshare secrets rotate` against a real server and a real bucket."""

from pathlib import Path

from modelshare.cli.exit_codes import ExitCode
from programs import serving
from shell import shell
from storage_servers import s3_server
from uploading import tiny_model


def test_from_setting_to_leaving(tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as bucket, serving(tmp_path / "platform", storage_allow_private="true") as server:
        owner = shell(server.url, server.project("acme").api_key, tmp_path / "owner")
        url = f"s3://{bucket.bucket}/mine"
        assert "the platform's storage" in owner.says("storage", "show")
        assert "Error: " in owner.refused("storage", "check")
        keys = f"{bucket.access_key}\n{bucket.secret_key}\n"
        wrong = owner.run("storage", "set", url, "--endpoint", bucket.endpoint, stdin=f"{bucket.access_key}\nwrong\n")
        assert wrong.returncode == ExitCode.FAILED
        assert "Nothing was changed, since the check failed at `list`" in wrong.stderr
        stored = owner.run("storage", "set", url, "--endpoint", bucket.endpoint, stdin=keys)
        assert stored.returncode == 0, stored.stderr
        assert f"New pushes are stored in {url}" in stored.stderr
        assert bucket.secret_key not in stored.stdout + stored.stderr
        secret = tmp_path / "secret"
        secret.write_text(f"{bucket.secret_key}\n")
        again = owner.run(
            *("storage", "set", url, "--endpoint", bucket.endpoint, "--access-key-id", bucket.access_key),
            *("--secret-file", str(secret), "--relayed"),
        )
        assert again.returncode == 0, again.stderr
        assert owner.json("storage", "show")["relayed"] is True
        kept = owner.run("storage", "set", url, "--endpoint", bucket.endpoint, "--keep-keys", "--json")
        assert kept.returncode == 0, kept.stderr
        assert "put a part" in owner.says("storage", "check")

        model = tmp_path / "owner" / "model"
        model.mkdir()
        for name, content in tiny_model().items():
            (model / name).write_bytes(content)
        assert owner.run("push", str(model), "--name", "tiny").returncode == 0
        assert len([each for each in (tmp_path / "s3" / "models" / "mine").rglob("*") if each.is_file()]) == 3

        for number, way in enumerate((["--keep-keys"], ["--keep-keys", "--relayed"])):
            assert owner.run("storage", "set", url, "--endpoint", bucket.endpoint, *way).returncode == 0
            folder = tmp_path / f"pulled-{number}"
            assert "3 files" in owner.says("pull", "tiny", str(folder))
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == tiny_model()

        rotated = owner.run_program("secrets", "rotate", "--data-dir", str(tmp_path / "platform" / "data"))
        assert "Encrypted 1 secret(s)" in rotated.stderr, rotated.stderr
        assert owner.json("storage", "check")["is_working"] is True
        assert "New pushes are stored on the platform" in owner.says("storage", "unset")
        assert owner.json("storage", "show")["kind"] == "platform"
        assert owner.json("models", "show", "tiny")["status"] == "ready"
        assert "done" in owner.says("storage", "move", "tiny", "--to", "platform", "--wait")
        assert "stored there already" in owner.says("storage", "move", "--all", "--to", "platform")
        assert [each["state"] for each in owner.json("storage", "moves")] == ["done"]
        owner.refused("storage", "move", "--to", "own", code=ExitCode.USAGE)
        assert "Set one first" in owner.refused("storage", "move", "tiny@1.0.0", "--to", "own")
