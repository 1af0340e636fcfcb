"""Installing modelshare from the platform, with the commands that its pages and documents show, into an empty home."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from e2e.installed import UV, Home
from modelshare.client import Client
from modelshare.demo.tiny_model import write_gguf
from modelshare.server.web.install import commands
from programs import Server, stop, wait_until

SENTENCE = "Hello from the tiny test model."
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def home(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """With uv where that is to be had, which is quicker."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.offer(uv=UV is not None)
    said = home.says(f"curl -fsSL {server.url}/install.sh | sh -s -- --agent")
    assert "modelshare 0" in said
    assert "is not on your PATH" in said
    assert f"Next: modelshare login --url {server.url}" in said
    return home


def test_the_program_is_linked_and_complete(home: Home) -> None:
    assert home.says(f"{home.program} --version").startswith("modelshare ")
    assert "Usage: modelshare agent" in home.says(f"{home.program} agent --help")


def test_pip_completes_an_upgrade_that_was_interrupted_and_keeps_the_agent(home: Home, server: Server) -> None:
    marker = home.folder / ".local/share/modelshare/.modelshare"
    complete = marker.read_text()
    marker.write_text("agent incomplete")
    home.offer(uv=False)
    try:
        said = home.says(f"curl -fsSL {server.url}/install.sh | sh", more=on_path(home))
        assert "PATH" not in said
        assert marker.read_text() == complete
        assert "Usage: modelshare agent" in home.says(f"{home.program} agent --help")
    finally:
        home.offer(uv=UV is not None)


def test_what_is_installed_already_is_left_as_it_is(home: Home, server: Server) -> None:
    module = next((home.folder / ".local/share/modelshare/lib").glob("python*/site-packages/modelshare/plugins.py"))
    before = module.stat().st_ctime_ns
    home.says(f"curl -fsSL {server.url}/install.sh | sh -s -- --agent")
    assert module.stat().st_ctime_ns == before


@pytest.mark.parametrize("name", ["uv", "pip"])
def test_the_pages_commands_install_into_the_same_environment(home: Home, server: Server, name: str) -> None:
    """For pip with half the packages, since it asks the index for each."""
    if name == "uv" and UV is None:
        pytest.skip("uv is not installed")
    (way,) = (way for way in commands.machine(server.url, "msj_x") if way.name == name)
    *install, start = way.commands.splitlines()
    assert start == f"MODELSHARE_JOIN_KEY=msj_x modelshare agent --url {server.url}"
    script = "\n".join([*install, "modelshare --version"])
    home.says(script.replace("-agent.txt", "-client.txt") if name == "pip" else script)


def test_the_service_is_installed_by_root_into_folders_that_services_see(server: Server) -> None:
    """Without running it: the unit's program is where the installer puts the link."""
    (way,) = (way for way in commands.machine(server.url, "msj_x") if way.name == "systemd")
    unit = httpx.get(f"{server.url}/dist/modelshare-agent.service").text
    bin_folder = re.search(r"--bin (\S+)", way.commands)
    assert bin_folder
    assert f"ExecStart={bin_folder[1]}/modelshare agent" in unit
    key_file = re.search(r"LoadCredential=join-key:(\S+)", unit)
    assert key_file
    assert f"/dev/stdin {key_file[1]}" in way.commands
    assert subprocess.run(["bash", "-n", "-c", way.commands], check=False).returncode == 0


def on_path(home: Home) -> dict[str, str]:
    return {"PATH": f"{home.folder}/.local/bin:{home.environment({})['PATH']}"}


class Changing(BaseHTTPRequestHandler):
    """A cache on the way to the platform that changes one file."""

    platform = ""
    changed = ""

    def do_GET(self) -> None:
        content = httpx.get(self.platform + self.path).content.replace(
            self.platform.encode(), f"http://{self.headers['Host']}".encode()
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content + b"\n# more" if self.path.endswith(self.changed) else content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def cache(server: Server) -> Iterator[str]:
    Changing.platform = server.url
    with ThreadingHTTPServer(("127.0.0.1", 0), Changing) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()


@pytest.mark.parametrize("changed", [".whl", "requirements-client.txt"])
def test_a_file_that_was_changed_on_the_way_is_refused(cache: str, tmp_path: Path, changed: str) -> None:
    home = Home(tmp_path)
    home.offer(uv=False)
    Changing.changed = changed
    done = home.run(f"curl -fsSL {cache}/install.sh | sh")
    assert done.returncode != 0
    assert "is not the file that this script belongs to" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--nonsense", "There is no option --nonsense"),
        ("--dir full", "exists and is not a virtual environment"),
        ("--bin taken", "exists and is not a link"),
        ("--bin linked", "exists and is not a link to a program"),
    ],
)
def test_what_is_somebody_elses_is_not_touched(server: Server, tmp_path: Path, arguments: str, words: str) -> None:
    home = Home(tmp_path)
    home.offer(uv=False)
    for name in ("full/photo.jpg", "taken/modelshare"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/modelshare").symlink_to(tmp_path / "full")
    done = home.run(f"curl -fsSL {server.url}/install.sh | sh -s -- {arguments}")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert words in done.stderr
    assert (tmp_path / "full/photo.jpg").read_text() == (tmp_path / "taken/modelshare").read_text() == "mine"
    assert not (tmp_path / ".local").exists()


def test_half_a_script_does_nothing(server: Server, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.offer(uv=False)
    script = httpx.get(f"{server.url}/install.sh").text
    home.run(script[: len(script) * 9 // 10])
    assert not (tmp_path / ".local").exists()


def test_the_page_on_shared_tiers_works_as_it_stands(home: Home, server: Server, tmp_path: Path) -> None:
    """With a tier that needs no GPU."""
    text = (DOCS / "shared-tier.md").read_text().replace("https://models.example.org", server.url)
    text = text.replace("msp_…", server.platform_key).replace("gpu_nvidia_shared", "free")
    operator, machine, projects, owner, afterwards = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my-model").mkdir()
    write_gguf(tmp_path / "my-model" / "model.gguf")
    environment = on_path(home) | {"MODELSHARE_URL": server.url}
    as_operator = environment | {"MODELSHARE_API_KEY": server.platform_key}
    home.says(operator, tmp_path)
    with running(home, machine.strip(), tmp_path):
        with Client(server.url, server.platform_key) as client:
            wait_until(lambda: [a for a in client.platform.agents.list() if a.state == "active"], "the agent joins")
        listed = home.says(projects, tmp_path, as_operator)
        assert "rack-1" in listed
        assert "200.0 GB" in listed
        home.says(owner, tmp_path, environment)
        ended = home.says(afterwards, tmp_path, as_operator)
        for words in ("acme/my-model is featured", "Agent rack-1 is suspended", "Removed rack-1"):
            assert words in ended


def copied(page: httpx.Response, name: str) -> str:
    """What the button beside these commands copies."""
    assert page.status_code == 200, page.text
    found = re.search(rf'<code id="{name}">(.*?)</code>', page.text, re.DOTALL)
    assert found, f"{name} is not on {page.url}"
    return unescape(found[1])


@contextlib.contextmanager
def running(home: Home, script: str, folder: Path) -> Iterator[None]:
    """Runs an agent by the commands that a page or a document shows."""
    *install, start = script.splitlines()
    home.says("\n".join(install), folder)
    words = ["bash", "-euc", f"exec env {start}"]
    process = subprocess.Popen(words, cwd=folder, env=home.environment(on_path(home)), start_new_session=True)
    try:
        yield
    finally:
        stop(process)


@contextlib.contextmanager
def visitor(server: Server) -> Iterator[httpx.Client]:
    """A person who has just signed up, with the project `labs`."""
    with httpx.Client(base_url=server.url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=60) as browser:
        browser.post("/sign-up", data={"name": "Ada", "email": "ada@labs.example", "password": "a quiet walk home"})
        browser.post("/dashboard/-/new", data={"name": "Labs", "slug": "labs"})
        yield browser


def test_the_commands_on_pages_lead_from_nothing_to_an_answer(home: Home, server: Server, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    write_gguf(tmp_path / "my-model" / "model.gguf")
    with visitor(server) as browser:
        made = browser.post("/dashboard/labs/keys/new", data={"name": "laptop", "reach": "everything"})
        key = copied(made, "key-value")
        known = on_path(home) | {"MODELSHARE_API_KEY": key}
        assert "Logged in to" in home.says(copied(made, "key-login"), tmp_path, stdin=key)
        pushed = home.says(copied(browser.get("/dashboard/labs/models"), "push-command"), tmp_path, stdin=key)
        assert "my-model 1.0.0 is ready" in pushed
        home.says("modelshare share my-model", tmp_path, on_path(home))
        (model,) = httpx.get(f"{server.url}/v1/catalog/models", params={"q": "labs"}).json()["data"]
        in_the_catalog = browser.get(f"/models/catalog/{model['id']}")
        home.says(copied(in_the_catalog, "code-install"), tmp_path)
        deployed = home.says(copied(in_the_catalog, "code-deploy"), tmp_path, on_path(home), stdin=key)
        assert "Endpoint my-model is" in deployed
        joining = browser.post("/dashboard/labs/agents/join-keys", data={"name": "box", "expires_in": "3600"})
        with running(home, copied(joining, "join-script"), tmp_path):
            with Client(server.url, key) as client:
                wait_until(lambda: client.endpoints.get("my-model").status == "active", "the endpoint is served")
            endpoint = browser.get("/dashboard/labs/endpoints/my-model")
            assert SENTENCE in home.says(copied(endpoint, "code-curl"), tmp_path, known)
            assert SENTENCE in home.says(copied(endpoint, "code-cli"), tmp_path, known)
            program = [sys.executable, "-c", copied(endpoint, "code-openai")]
            assert SENTENCE in subprocess.run(program, check=True, env=known, capture_output=True, text=True).stdout
            documents(home, tmp_path, known)


def documents(home: Home, folder: Path, known: dict[str, str]) -> None:
    """Blocks of documents that need a model and an endpoint."""
    named = {"MODEL[@VERSION]": "my-model", "OWNER/NAME": "labs/my-model", "MODEL": "my-model", "DIR": "out"}
    pulled = home.says(block("storage.md", "modelshare pull", named), folder, known)
    assert (folder / "out/model.gguf").read_bytes() == (folder / "my-model/model.gguf").read_bytes(), pulled
    signed = block("signing.md", "openssl", {"1.2.0": "1.0.0"})
    assert "Registered release team" in home.says(signed, folder, known)
    token = home.says(block("hugging-face.md", "modelshare endpoints", {"my-endpoint": "my-model"}), folder, known)
    assert "hf_" in token


def block(document: str, start: str, values: dict[str, str]) -> str:
    """The first block of commands that starts like this, with values for what a reader would fill in."""
    found = re.search(rf"```bash\n({re.escape(start)}.*?)```", (DOCS / document).read_text(), re.DOTALL)
    assert found
    text = found[1]
    for name, value in values.items():
        text = text.replace(name, value)
    return text
