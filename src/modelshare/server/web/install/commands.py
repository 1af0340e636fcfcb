"""The commands that pages show for installing modelshare from this platform. Pure."""

import shlex
from dataclasses import dataclass
from typing import Final

_VENV: Final = "~/.local/share/modelshare"
_JOIN_KEY: Final = "/etc/modelshare/join-key"
_UNIT: Final = "modelshare-agent.service"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to install an agent and start it."""

    name: str
    hint: str
    commands: str


def client(url: str) -> str:
    """Installs the command line."""
    return _script(url, "")


def machine(url: str, join_key: str) -> list[Way]:
    """Ways to make a machine an agent; each is complete."""
    start = f"MODELSHARE_JOIN_KEY={join_key} modelshare agent --url {shlex.quote(url)}"
    requirements = shlex.quote(f"{url}/dist/requirements-agent.txt")
    activate = f". {_VENV}/bin/activate"
    return [
        Way(
            "Script",
            "Without root. Uses uv if that is installed, else Python 3.11 or newer. Run it again to upgrade.",
            f"{_script(url, ' -s -- --agent')}\n{start}",
        ),
        Way(
            "uv",
            "uv brings a suitable Python, if there is none.",
            f"uv venv --allow-existing --python '>=3.11' {_VENV}\n{activate}\n"
            f"uv pip install --require-hashes -r {requirements}\n{start}",
        ),
        Way(
            "pip",
            "Needs Python 3.11 or newer.",
            f"python3 -m venv {_VENV}\n{activate}\npip install --require-hashes -r {requirements}\n{start}",
        ),
        Way(
            "systemd",
            "A service that starts with the machine, with a user of its own and few rights. Needs root.",
            f"curl -fsSL {shlex.quote(f'{url}/install.sh')} | sudo sh -s -- --agent --dir /opt/modelshare --bin "
            f"/usr/local/bin\nprintf %s {join_key} | sudo install -D -m 600 /dev/stdin {_JOIN_KEY}\n"
            f"curl -fsSL {shlex.quote(f'{url}/dist/{_UNIT}')} | sudo install -D -m 644 /dev/stdin "
            f"/etc/systemd/system/{_UNIT}\nsudo systemctl enable --now {_UNIT}",
        ),
    ]


def _script(url: str, options: str) -> str:
    return f'curl -fsSL {shlex.quote(f"{url}/install.sh")} | sh{options}\nexport PATH="$HOME/.local/bin:$PATH"'
