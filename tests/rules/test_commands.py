"""Commands that documents and pages show to copy: each is run by a test, or stands here with the reason why not."""

import re
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup

from modelshare.cli.app import ENTRIES, load

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "src/modelshare/server/web/templates"
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.name != "CHANGELOG.md")
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COPYABLE = re.compile(r"""copyable\("([\w-]+)\"""")
INSTALL = "tests/e2e/test_install.py"
IN_A_TEST = {
    ("README.md", "source .venv/bin/activate"): "tests/e2e/test_demo.py",
    ("docs/hugging-face.md", "modelshare endpoints hf-token my-endpoint"): INSTALL,
    ("docs/shared-tier.md", "curl -fsSL https://models.example.org/install.sh | sh"): INSTALL,
    ("docs/shared-tier.md", "curl -fsSL https://models.example.org/install.sh | sh -s -- --agent"): INSTALL,
    ("docs/shared-tier.md", "modelshare platform agents list"): INSTALL,
    ("docs/shared-tier.md", "export MODELSHARE_API_KEY=$(cat acme-key)"): INSTALL,
    ("docs/shared-tier.md", "modelshare platform feature acme/my-model"): INSTALL,
    ("docs/signing.md", "openssl ecparam -name prime256v1 -genkey -noout -out release.pem"): INSTALL,
    ("docs/storage.md", "modelshare pull MODEL[@VERSION] DIR"): INSTALL,
    "key-login": INSTALL,
    "push-command": INSTALL,
    "code-install": INSTALL,
    "code-deploy": INSTALL,
    "join-": INSTALL,
    "code-curl": INSTALL,
    "code-cli": INSTALL,
    "code-openai": INSTALL,
}  # fmt: skip
NOT_RUN = {
    ("CONTRIBUTING.md", "make test"): "runs the tests",
    (
        "README.md",
        "make run",
    ): "makes a virtual environment in the checkout; tests/e2e/test_demo.py runs what it starts",
    ("README.md", "curl -fsSL https://models.example.org/install.sh | sh"): "tests/e2e/test_install.py, one at a time",
    ("README.md", "make test"): "runs the tests",
    ("README.md", "export ACME=ms_acme_…  BOREALIS=ms_borealis_…"): "keys to fill in",
    (
        "README.md",
        "modelshare serve --host 0.0.0.0 --data-dir /var/lib/modelshare",
    ): "listens on every address, as root",
    ("docs/backup.md", "modelshare backup /backups/2026-11-27"): "on the server's machine: tests/server/test_backup.py",
    (
        "docs/backup.md",
        "modelshare restore /backups/2026-11-27",
    ): "on the server's machine: tests/server/test_backup.py",
    ("docs/backup.md", "modelshare doctor"): "on the server's machine: tests/server/test_doctor.py",
    ("docs/backup.md", "modelshare admin export-audit"): "a file of the operator's: tests/server/audit",
    ("docs/engine-fleets.md", "vllm-router --host"): "tests/agent/engines/test_vllm_router.py, with engines of its own",
    ("docs/engine-fleets.md", "modelshare agent --url"): "tests/agent/engines/test_vllm_router.py, without a platform",
    ("docs/hugging-face.md", "export HF_ENDPOINT=https://models.example.org/hf"): "tests/e2e/test_hugging_face_pull.py",
    (
        "docs/hugging-face.md",
        "hf download acme/tiny --local-dir tiny",
    ): "tests/e2e/test_hugging_face_pull.py, in Python",
    ("docs/hugging-face.md", "hf upload acme/tiny ./folder"): "tests/e2e/test_hugging_face_push.py, in Python",
    (
        "docs/hugging-face.md",
        "model_signing verify key --public_key release.pub",
    ): "tests/e2e/test_hugging_face_pull.py",
    (
        "docs/import.md",
        "modelshare import hf:ORG/NAME",
    ): "needs another Hub; tests/e2e/test_import.py has one of its own",
    ("docs/oci.md", "skopeo login --username token models.example.org"): "tests/e2e/test_oci_clients.py",
    ("docs/ray.md", "ray start --head"): "tests/agent/engines/test_ray.py has a cluster of its own, without a platform",
    ("docs/signing.md", "modelshare models signature my-model@1.2.0"): "tests/e2e/test_signing.py",
    ("docs/storage.md", "modelshare storage set s3://bucket/prefix"): "needs a bucket: tests/e2e/test_cli_storage.py",
    ("docs/storage.md", "modelshare agent … --share-on-network 10.0.0.5"): "options of an agent",
    ("docs/storage.md", "modelshare hold ./my-model --name my-model"): "does not end: tests/e2e/test_hold.py",
    ("docs/storage.md", "modelshare register s3://bucket/path/to/model"): "needs a bucket: tests/e2e/test_register.py",
    ("docs/storage.md", "modelshare storage move MODEL[@VERSION] --to own|platform"): "tests/e2e/test_cli_storage.py",
    ("docs/webhooks.md", 'KEY=$(printf %s "${SECRET#whsec_}"'): "tests/server/audit/test_webhook_deliveries.py",
    "code-agent": "the first of the ways to install an agent, with a join key to fill in",
    "code-hugging-face": "needs the program hf: tests/e2e/test_hugging_face_pull.py",
    "plain-curl": "the same macro as code-curl",
    "key-openai": "a line to put into a program",
    "sign-command": "a model and a key to fill in: tests/e2e/test_signing.py",
    "oci-command": "needs skopeo: tests/e2e/test_oci_clients.py",
    "webhook-verify": "a line to put into a program: tests/unit/client",
    "tiers-example": "no command",
    "iam-policy": "no command",
    "cors-rules": "no command",
    "delivery-body": "no command",
}


def blocks() -> list[tuple[str, str]]:
    found = ((str(path.relative_to(ROOT)), block) for path in DOCUMENTS for block in BLOCK.findall(path.read_text()))
    return [(name, next(line for line in block.splitlines() if line and line[0] != "#")) for name, block in found]


def known(block: tuple[str, str]) -> bool:
    return any(
        isinstance(each, tuple) and each[0] == block[0] and block[1].startswith(each[1]) for each in IN_A_TEST | NOT_RUN
    )


def test_every_block_of_commands_in_the_documents_is_run_or_has_its_reason() -> None:
    assert [block for block in blocks() if not known(block)] == []
    stale = [
        each for each in IN_A_TEST | NOT_RUN
        if isinstance(each, tuple) and not any(name == each[0] and line.startswith(each[1]) for name, line in blocks())
    ]  # fmt: skip
    assert stale == []


def test_the_tests_that_are_named_exist() -> None:
    named = {path for words in (IN_A_TEST | NOT_RUN).values() for path in re.findall(r"tests/[\w/.]*\w", words)}
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_everything_to_copy_on_pages_is_run_or_has_its_reason() -> None:
    shown = {each for path in TEMPLATES.rglob("*.html") for each in COPYABLE.findall(path.read_text())}
    assert shown == {each for each in IN_A_TEST | NOT_RUN if isinstance(each, str)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_have_these_options(path: Path) -> None:
    """Also those that are not run."""
    wrong = []
    for block in BLOCK.findall(path.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "modelshare" in words:
                wrong += problems(words[words.index("modelshare") + 1 :], line)
    assert wrong == []


def problems(words: list[str], line: str) -> list[str]:
    entry = next((entry for entry in ENTRIES if words and entry.name == words[0]), None)
    if entry is None:
        return [f"{line}: there is no such command"]
    command, words = load(entry), words[1:]
    while isinstance(command, TyperGroup):
        if words[0] not in command.commands:
            return [f"{line}: there is no command {words[0]}"]
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [f"{line}: there is no option {word}" for word in words if word.startswith("--") and word not in options]
