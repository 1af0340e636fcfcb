"""The platform's own package, as it is served to those who install it."""

import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import anyio
import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modelshare.server.web.install import commands, routes
from modelshare.server.web.install.wheel import wheel

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src/modelshare/server/web/install"
KINDS = ("client", "agent")


def pins(text: str) -> dict[str, set[str]]:
    """Versions by name, several where they depend on the machine."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def test_the_wheel_has_what_the_build_backend_would_put_into_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (built,) = tmp_path.glob("*.whl")
    assert built.name == wheel().filename
    with zipfile.ZipFile(built) as theirs, zipfile.ZipFile(io.BytesIO(wheel().content)) as ours:
        assert sorted(ours.namelist()) == sorted(theirs.namelist())
        for name in ours.namelist():
            assert name.endswith(("/RECORD", "/WHEEL", "/METADATA")) or ours.read(name) == theirs.read(name), name


def test_the_wheel_records_every_file_with_its_digest() -> None:
    with zipfile.ZipFile(io.BytesIO(wheel().content)) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = [line.split(",") for line in archive.read(record).decode().splitlines()]
        assert [name for name, _, _ in rows] == archive.namelist()
        for name, digest, size in rows[:-1]:
            content = archive.read(name)
            encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={encoded}", str(len(content)))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_needed_is_pinned_to_the_versions_that_are_tested(kind: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + (project["optional-dependencies"]["agent"] if kind == "agent" else [])
    served = (FOLDER / f"requirements-{kind}.txt").read_text()
    pinned, tested = pins(served), pins((ROOT / "requirements/run.txt").read_text())
    for each in map(Requirement, needed):
        assert canonicalize_name(each.name) in pinned
        assert all(each.specifier.contains(version) for version in pinned[canonicalize_name(each.name)])
    assert {name: versions for name, versions in pinned.items() if not versions <= tested[name]} == {}
    blocks = re.split(r"^(?=\S)", served, flags=re.MULTILINE)[1:]
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


async def test_the_script_names_the_digests_of_what_is_served(anonymous: httpx.AsyncClient) -> None:
    script = await anonymous.get("/install.sh")
    assert (script.status_code, script.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert re.search(r"@[A-Z0-9_]+@", script.text) is None
    given = dict(re.findall(r"^(\w+)=(\S+)$", script.text, re.MULTILINE))
    assert given["url"] == "http://modelshare.test"
    for name, digest in [
        (given["wheel"], given["wheel_sha256"]),
        ("requirements-client.txt", given["client_sha256"]),
        ("requirements-agent.txt", given["agent_sha256"]),
    ]:
        file = await anonymous.get(f"/dist/{name}")
        assert hashlib.sha256(file.content).hexdigest() == digest
        assert file.headers["etag"] == f'"{digest}"'
        assert file.headers["cache-control"] == "no-cache"
        again = await anonymous.get(f"/dist/{name}", headers={"If-None-Match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_nothing_is_built_or_hashed_for_each_request(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["/install.sh", *(f"/dist/{name}" for name in ("modelshare-agent.service", wheel().filename))]
    before = [(await anonymous.get(path)).content for path in paths]
    monkeypatch.setattr(routes, "hashlib", None)
    monkeypatch.setattr(routes, "_FOLDER", Path("/nowhere"))
    assert [(await anonymous.get(path)).content for path in paths] == before


@pytest.mark.parametrize("kind", KINDS)
async def test_requirements_end_with_the_platforms_own_wheel(anonymous: httpx.AsyncClient, kind: str) -> None:
    served = (await anonymous.get(f"/dist/requirements-{kind}.txt")).text
    own = f"modelshare @ http://modelshare.test/dist/{wheel().filename} --hash=sha256:{wheel().sha256}"
    assert served.splitlines()[-1] == own
    assert served.count("modelshare") == 3, "named nowhere else"


@pytest.mark.parametrize(
    "path", ["/dist/modelshare.db", "/dist/secret", "/dist/install.sh", "/dist/routes.py", "/dist/..%2froutes.py"]
)
async def test_nothing_else_is_served(anonymous: httpx.AsyncClient, path: str) -> None:
    assert (await anonymous.get(path)).status_code == 404


async def test_what_a_request_calls_the_host_is_not_believed(anonymous: httpx.AsyncClient) -> None:
    script = await anonymous.get("/install.sh", headers={"Host": "evil.example"})
    assert "evil.example" not in script.text


def test_a_url_cannot_leave_its_word() -> None:
    for way in commands.machine("https://models.example/$(id)", "msj_1"):
        assert "$(id)" not in way.commands.replace("'https://models.example/$(id)", "")


async def test_the_service_is_a_valid_and_confined_unit(anonymous: httpx.AsyncClient, tmp_path: Path) -> None:
    served = (await anonymous.get("/dist/modelshare-agent.service")).text
    assert "@" not in served.replace("@system-service", "")
    assert "--url http://modelshare.test --join-key-file %d/join-key" in served
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / "modelshare-agent.service"
    unit.write_text(served.replace("/usr/local/bin/modelshare", sys.executable))
    for check in (["verify"], ["security", "--offline=true", "--threshold=25"]):
        done = await anyio.run_process(["systemd-analyze", *check, str(unit)], check=False)
        assert (done.returncode, done.stderr) == (0, b"")
