"""Versions change under load: real server, agent and engines; not one request is dropped, pinned endpoints stay."""

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from modelshare.client import Client
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import LOOP, REPLY, write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointStatus
from modelshare.wire.keys import ProjectWithKey
from programs import Server, agent, serving, wait_until

OLD, NEW = "1.0.0", "1.1.0"
SAYS = {OLD: REPLY, NEW: LOOP}
"""How the answers of a version begin."""
TOKENS = 48
"""Of an answer of the new version, which would go on for ever: long enough to be under way when something changes."""

PAUSE_SECONDS = 0.05
"""Between the chats of a thread, so that the machine has time for what changes."""


@dataclass
class Traffic:
    """Chats, one after the other in each of a few threads, whole ones and streams in turn."""

    project: ProjectWithKey
    answered: dict[str, list[str]] = field(default_factory=dict)
    """By endpoint, the version that each answer came from, oldest first."""
    failed: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def on(self, *endpoints: Endpoint, threads: int = 2) -> Iterator[None]:
        """As long as the block, `threads` for each endpoint."""
        self._over.clear()
        with ThreadPoolExecutor(threads * len(endpoints)) as pool:
            try:
                running = [pool.submit(self._chat, endpoint) for endpoint in endpoints for _ in range(threads)]
                yield
            finally:
                self._over.set()
        for one in running:
            one.result()

    def reaches(self, endpoint: Endpoint, version: str) -> Callable[[], bool]:
        """Whether the endpoint has answered with the version since this was asked."""
        before = len(self.answered.get(endpoint.slug, []))
        return lambda: version in self.answered.get(endpoint.slug, [])[before:]

    def _chat(self, endpoint: Endpoint) -> None:
        headers = {"Authorization": f"Bearer {self.project.api_key}"}
        with httpx.Client(base_url=endpoint.base_url, headers=headers, timeout=60) as http:
            for streams in itertools.cycle([False, True]):
                if self._over.wait(PAUSE_SECONDS):
                    return
                problem, text = _asked(http, streams=streams)
                version = next((name for name, start in SAYS.items() if text.startswith(start)), None)
                if problem or version is None:
                    self.failed.append(f"{endpoint.slug}: {problem or text!r}")
                else:
                    self.answered.setdefault(endpoint.slug, []).append(version)


def _asked(http: httpx.Client, *, streams: bool) -> tuple[str | None, str]:
    """What is wrong with the answer, and its text."""
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": TOKENS, "stream": streams}
    try:
        answer = http.post("/chat/completions", json=body)
    except httpx.HTTPError as error:
        return repr(error), ""
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}", ""
    if not streams:
        return None, str(answer.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    if events[-1:] != ["[DONE]"]:
        return f"a stream that does not end: {answer.text[-300:]}", ""
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    if not any(choice.get("finish_reason") for choice in choices):
        return f"a stream without its last piece: {answer.text[-300:]}", ""
    return None, "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for version in SAYS:
        (folder / version).mkdir()
        write_gguf(folder / version / "model.gguf", loop=version == NEW)
    return {version: folder / version for version in SAYS}


@pytest.fixture
def project(server: Server, request: pytest.FixtureRequest) -> ProjectWithKey:
    return server.project(request.node.name.replace("_", "-")[:40].strip("-"))


@pytest.fixture
def box(server: Server, client: Client, tmp_path: Path) -> Iterator[Path]:
    """The project's machine, and where its agent logs."""
    with agent(server.url, tmp_path / "box", client.join_keys.create(JoinKeyCreate(name="box")).key):
        yield tmp_path / "box" / "agent.log"


def deployed(client: Client, model: str, slug: str, version: str = "latest") -> Endpoint:
    """An endpoint that answers."""
    client.endpoints.create(EndpointCreate(slug=slug, model=model, tier="self_hosted", version=version))
    return wait_until(lambda: active(client, slug), f"{slug} answers", 90)


def active(client: Client, slug: str) -> Endpoint | None:
    endpoint = client.endpoints.get(slug)
    return endpoint if endpoint.status is EndpointStatus.ACTIVE else None


@pytest.mark.timeout(400)
def test_no_request_is_dropped_while_versions_change(
    client: Client, project: ProjectWithKey, box: Path, files: dict[str, Path]
) -> None:
    alone = push_model(client, files[OLD], name="alone", version=OLD).model
    both = push_model(client, files[OLD], name="both", version=OLD).model
    follows, latest = deployed(client, alone.id, "follows"), deployed(client, both.id, "latest")
    stays = deployed(client, both.id, "stays", OLD)
    traffic = Traffic(project)
    changed: list[str] = []

    def reach(version: str) -> None:
        for endpoint in (follows, latest):
            wait_until(traffic.reaches(endpoint, version), f"{version} answers {endpoint.slug}")

    def change(how: Callable[[str, str], object], version: str) -> None:
        for model in (alone, both):
            how(model.id, version)
            changed.append(model.name)

    with traffic.on(follows, latest, stays):
        for model in (alone, both):
            push_model(client, files[NEW], name=model.name, version=NEW)
            changed.append(model.name)
        reach(NEW)
        for _ in range(2):
            change(client.models.rollback, OLD)
            reach(OLD)
            change(client.models.promote, NEW)
            reach(NEW)
        for _ in range(4):  # each again before the one before could come about
            change(client.models.rollback, OLD)
            change(client.models.promote, NEW)
        reach(NEW)
    assert traffic.failed == [], box.read_text()[-3000:]
    counts = {slug: len(versions) for slug, versions in traffic.answered.items()}
    print(f"{len(changed)} changes, answers: {counts}")  # noqa: T201 - shown by -s
    assert set(traffic.answered["stays"]) == {OLD}
    assert {*traffic.answered["follows"], *traffic.answered["latest"]} == {OLD, NEW}
