"""`modelshare projects`, with a platform key and without one."""

from pathlib import Path

from programs import serving
from shell import shell


def test_what_a_project_may_store(tmp_path: Path) -> None:
    with serving(tmp_path / "platform") as server:
        made = server.project("acme")
        operator = shell(server.url, server.platform_key, tmp_path / "operator")
        assert "acme may store 80.0 GB." in operator.run("projects", "quota", "acme", "80GB").stderr
        quotas = {each["slug"]: each["quota_bytes"] for each in operator.json("projects", "list")}
        assert quotas["acme"] == 80_000_000_000
        assert "80.0 GB" in operator.says("projects", "list")
        assert operator.json("projects", "quota", made.id, "default")["quota_bytes"] is None
        assert "There is no project `borg`" in operator.refused("projects", "quota", "borg", "1GB")
        owner = shell(server.url, made.api_key, tmp_path / "owner")
        assert "platform key" in owner.refused("projects", "list")
