"""Events and the end of processes: none of a committed change is lost, and processes together tell each once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from programs import SECRET, Server, serving, wait_until
from receiver import Received, Receiver, Reply, receiving
from served import free_port

pytestmark = pytest.mark.anyio
"""For the fixtures' sake: what the tests do themselves blocks."""


class Site:
    """A database whose server processes come and go, with a project whose one agent is suspended and resumed."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.key = ""
        self.agent = ""
        self.suspended = False
        self.ports: dict[str, int] = {}

    @contextmanager
    def serving(self, name: str = "one") -> Iterator[Server]:
        port = self.ports.setdefault(name, free_port())  # the same each time: a process knows its place again
        with serving(
            self.folder / name,
            port=port,
            platform_key="known",
            database_url=self.database_url,
            webhooks_allow_private="true",
            secret=SECRET,
        ) as server:
            yield server

    def http(self, server: Server) -> httpx.Client:
        if not self.key:
            self.key = server.project("acme").api_key
        return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def prepare(self, server: Server, url: str) -> str:
        """The webhook's id."""
        with self.http(server) as http:
            join_key = http.post("/v1/join-keys", json={"name": "box"}).json()["key"]
            enrolled = httpx.post(f"{server.url}/v1/enroll", json={"join_key": join_key, "name": "box"}).json()
            self.agent = enrolled["agent_id"]
            made = http.post("/v1/webhooks", json={"url": url, "events": ["agent.*"]})
            assert made.status_code == 201, made.text
            return str(made.json()["id"])

    def change(self, http: httpx.Client, times: int) -> None:
        """Changes, one event each."""
        for _ in range(times):
            self.suspended = not self.suspended
            answer = http.patch(f"/v1/agents/{self.agent}", json={"suspended": self.suspended})
            assert answer.status_code == 200, answer.text

    def committed(self, http: httpx.Client) -> int:
        """How many changes the audit log has, each in the transaction of its change."""
        found, cursor = 0, ""
        while True:
            page = http.get(f"/v1/audit?limit=200{cursor}").json()
            found += sum(entry["action"] in {"agent.suspend", "agent.resume"} for entry in page["data"])
            if not page["has_more"]:
                return found
            cursor = f"&after={page['next_cursor']}"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return Site(tmp_path, database_url)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def changes(receiver: Receiver) -> list[dict[str, Any]]:
    return [event for event in receiver.events if event["type"] in {"agent.suspended", "agent.resumed"}]


def distinct(receiver: Receiver) -> set[str]:
    return {event["id"] for event in changes(receiver)}


async def test_killed_between_commit_and_delivery(site: Site, receiver: Receiver) -> None:
    """Each round ends right after an answer, with the outbox and the deliveries as they happen to be."""
    with site.serving() as server:
        site.prepare(server, receiver.url)
    for times in (1, 4, 12):
        with site.serving() as server, site.http(server) as http:
            site.change(http, times)
            kill(server)
    with site.serving() as server, site.http(server) as http:
        wait_until(lambda: len(distinct(receiver)) == site.committed(http), "every event has arrived")
        assert site.committed(http) == 17
    bodies = {received.body for received in receiver.received}
    assert len(bodies) == len({received.event["id"] for received in receiver.received}), "the same bytes each time"


async def test_killed_while_it_delivers(site: Site, receiver: Receiver) -> None:
    release = threading.Event()

    def hang(_: Received) -> Reply:
        release.wait(60)
        return Reply()

    receiver.answer = hang
    with site.serving() as server, site.http(server) as http:
        site.prepare(server, receiver.url)
        site.change(http, 10)
        wait_until(lambda: changes(receiver), "a delivery has begun")
        kill(server)
    begun = distinct(receiver)
    release.set()
    with site.serving() as server, site.http(server) as http:
        wait_until(lambda: len(distinct(receiver)) == 10, "every event has arrived")
        wait_until(lambda: all(count > 1 for count in _counts(receiver, begun)), "what was cut off comes again")


def _counts(receiver: Receiver, ids: set[str]) -> list[int]:
    arrived = [event["id"] for event in changes(receiver)]
    return [arrived.count(id_) for id_ in ids]


async def test_what_was_never_committed_is_never_told(site: Site, receiver: Receiver) -> None:
    """Requests are cut off by the kill: the log and the webhook agree on which of them happened."""
    with site.serving() as server:
        site.prepare(server, receiver.url)
    for _ in range(2):
        with site.serving() as server, site.http(server) as http:
            threads = [threading.Thread(target=_change_until_cut, args=(site, http)) for _ in range(4)]
            for thread in threads:
                thread.start()
            enough = len(changes(receiver)) + 6
            wait_until(partial(_has_come_to, receiver, enough), "changes are under way")
            kill(server)
            for thread in threads:
                thread.join()
    with site.serving() as server, site.http(server) as http:
        wait_until(lambda: len(distinct(receiver)) >= site.committed(http), "every event has arrived")
        marker = len(receiver.received)
        site.change(http, 2)  # one of them at least changes something, whatever the agent is now
        wait_until(lambda: len(receiver.received) > marker, "another event has arrived")
        wait_until(lambda: len(distinct(receiver)) == site.committed(http), "and not one more than was done")


def _has_come_to(receiver: Receiver, count: int) -> bool:
    return len(changes(receiver)) >= count


def _change_until_cut(site: Site, http: httpx.Client) -> None:
    try:
        while True:
            site.change(http, 2)
    except (httpx.HTTPError, AssertionError):
        pass


@pytest.mark.parametrize("lend", ["postgres"], indirect=True)
async def test_two_processes_tell_each_event_once(site: Site, receiver: Receiver) -> None:
    """A SQLite folder has one process."""
    with site.serving() as one, site.http(one) as first:
        site.prepare(one, receiver.url)
        with site.serving("two") as two, site.http(two) as second:
            for http in (first, second) * 5:
                site.change(http, 6)
            wait_until(lambda: len(changes(receiver)) >= 60, "every event has arrived")
            wait_until(lambda: not _pending(first), "nothing is left")
            assert len(changes(receiver)) == len(distinct(receiver)) == 60


def _pending(http: httpx.Client) -> list[dict[str, Any]]:
    [webhook] = http.get("/v1/webhooks").json()["data"]
    return list(http.get(f"/v1/webhooks/{webhook['id']}/deliveries?state=pending").json()["data"])
