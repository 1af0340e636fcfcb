"""Three `modelshare serve` on one PostgreSQL: a revoked key is refused by each, and a frozen one is told as pending."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelshare.client import AuthenticationError, Client
from modelshare.wire.keys import KeyCreate, KeyWithValue, ProjectWithKey
from modelshare.wire.usage import AuditEntry
from programs import SECRET, Server, serving, wait_until

pytestmark = pytest.mark.parametrize("lend", ["postgres"], indirect=True)


@pytest.fixture
def servers(database_url: str, tmp_path: Path) -> Iterator[list[Server]]:
    with contextlib.ExitStack() as stack:
        found: list[Server] = []
        for number in range(3):
            key = found[0].platform_key if found else ""
            folder = tmp_path / str(number)
            server = serving(folder, platform_key=key, database_url=database_url, secret=SECRET)
            found.append(stack.enter_context(server))
        yield found


def refused(server: Server, key: KeyWithValue) -> bool:
    with Client(server.url, key.key) as client:
        try:
            list(client.models.list())
        except AuthenticationError:
            return True
    return False


def entry_of(server: Server, project: ProjectWithKey, key: KeyWithValue) -> AuditEntry:
    """Of the key's revocation."""
    with server.client(project) as client:
        return next(
            entry for entry in client.audit.list() if (entry.action, entry.target) == ("key.revoke", f"key:{key.id}")
        )


def confirmed_by(server: Server, project: ProjectWithKey, key: KeyWithValue) -> set[str]:
    return {one.process for one in entry_of(server, project, key).confirmations}


def test_each_process_refuses_and_confirms(servers: list[Server]) -> None:
    first, second, frozen = servers
    project = first.project("acme")
    with Client(first.url, first.platform_key) as operator:
        names = {one.address: one.name for one in operator.platform.processes()}
    assert names.keys() == {server.url for server in servers}
    with first.client(project) as client:
        one, other = (client.keys.create(KeyCreate(name=name)) for name in ("one", "other"))
        assert [refused(server, key) for server in servers for key in (one, other)] == [False] * 6
        client.keys.revoke(one.id)
        for server in servers:
            wait_until(lambda server=server: refused(server, one), "the key is refused", 10)  # type: ignore[misc]
        wait_until(lambda: confirmed_by(first, project, one) == set(names.values()), "all have confirmed", 10)
        assert entry_of(first, project, one).pending == []

        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            client.keys.revoke(other.id)
            running = {names[first.url], names[second.url]}
            wait_until(lambda: confirmed_by(second, project, other) == running, "those that run have confirmed", 10)
            assert entry_of(second, project, other).pending == [names[frozen.url]]
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)
        wait_until(lambda: confirmed_by(first, project, other) == set(names.values()), "it confirms when it wakes", 10)
        assert refused(frozen, other)
