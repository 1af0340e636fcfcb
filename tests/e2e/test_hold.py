"""`modelshare hold`: a model that stays on its owner's machine, deployed by another project."""

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from changing_folders import files_below
from holding import holding
from modelshare.client import Client
from modelshare.demo.tiny_model import REPLY, write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import EndpointCreate, EndpointStatus
from modelshare.wire.models import ModelStatus
from programs import agent, serving, wait_until
from served import free_port
from shell import shell

PADDING = 40 << 20
"""More than agents may lose in a kill."""


def ready(client: Client, folder: Path) -> None:
    def is_ready() -> bool:
        found = list(client.models.list())
        return bool(found) and found[0].status is ModelStatus.READY

    wait_until(is_ready, "the held model is ready")


@pytest.fixture
def owner_folder(tmp_path: Path) -> Path:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    weights = tmp_path / "owner" / "model" / "tiny.gguf"
    write_gguf(weights, loop=False)
    with weights.open("ab") as file:  # engines read as far as the header says
        file.write(bytes(PADDING))
    return tmp_path / "owner"


def bytes_on(folder: Path, size: int) -> list[Path]:
    """Files below the folder that are as large as the weights."""
    return [path for path, stat in files_below(folder).items() if stat.st_size == size]


def pulled(folder: Path) -> int:
    """Bytes that the agent has of files that it is still pulling."""
    return sum(stat.st_blocks * 512 for path, stat in files_below(folder / "agent").items() if ".part" in path.name)


def test_a_pull_outlives_the_holder_and_the_platform(tmp_path: Path, owner_folder: Path) -> None:
    """Killed and asleep, both midway; the platform restarts as well. Then the engine answers."""
    port = free_port()
    with ExitStack() as running:
        with serving(tmp_path / "platform", port=port) as server:
            acme, other = server.project("acme"), server.project("other")
            deployer = tmp_path / "deployer"
            with holding(server.url, acme.api_key, owner_folder, "--name", "tiny", "--rate", "500kB/s") as holder:
                with server.client(acme) as owner, server.client(other) as client:
                    ready(owner, owner_folder)
                    assert next(iter(owner.models.versions("tiny"))).digests == "holder"
                    owner.models.share("tiny")
                    key = client.join_keys.create(JoinKeyCreate(name="box")).key
                    client.endpoints.create(EndpointCreate(slug="chat", model="acme/tiny", tier="self_hosted"))
                running.enter_context(agent(server.url, deployer, key))
                wait_until(lambda: pulled(deployer) > 0, "the first bytes")
                holder.send_signal(signal.SIGKILL)
                holder.wait()
        # the platform is gone as well; both come back
        server = running.enter_context(serving(tmp_path / "platform", port=port, platform_key=server.platform_key))
        owner = running.enter_context(server.client(acme))
        client = running.enter_context(server.client(other))

        def waits() -> bool:
            endpoint = client.endpoints.get("chat")
            is_waiting = "owner's machine" in (endpoint.status_reason or "")
            return is_waiting and endpoint.status is EndpointStatus.PROVISIONING

        wait_until(waits, "the endpoint waits for the owner's machine")
        # without the owner's key: what is registered is served again
        again = running.enter_context(holding(server.url, None, owner_folder, "--name", "tiny"))
        wait_until(lambda: client.endpoints.get("chat").status is EndpointStatus.ACTIVE, "the endpoint answers", 90)
        answer = shell(server.url, other.api_key, tmp_path / "shell").says("chat", "chat", "Hi")
        assert REPLY in answer
        size = (owner_folder / "model" / "tiny.gguf").stat().st_size
        assert bytes_on(tmp_path / "platform", size) == []
        grants = [entry for entry in owner.audit.list() if entry.action == "grant.issue"]
        assert grants[0].details["project"] == other.id
        assert again.poll() is None
