"""The demo: the whole flow on one machine, by the means a user has.

One project pushes and shares a tiny model; another deploys it on `self_hosted` and runs a real agent, which pulls the
weights under a grant and serves them with llama.cpp.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelshare.client import AsyncClient, CatalogFilter, Client, ModelshareError
from modelshare.client.push import push_model
from modelshare.demo.tiny_model import write_gguf
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointStatus
from modelshare.wire.keys import ProjectCreate, ProjectWithKey
from modelshare.wire.models import ModelPatch
from modelshare.wire.tiers import SELF_HOSTED
from modelshare.wire.units import size

MODEL, SLUG = "tiny-chat", "hello"
READY_SECONDS = 120.0
STOP_SECONDS = 15.0

Say = Callable[[str], None]


class FirstRun(Protocol):
    """The credentials of a fresh platform."""

    platform_key: str


Greet = Callable[[str, Any], Awaitable[None]]


class DemoError(Exception):
    """The demo did not come up; the message says where to look."""


@dataclass(frozen=True, slots=True)
class _Cast:
    """The two projects of the demo."""

    owner: ProjectWithKey
    deployer: ProjectWithKey


async def started(url: str, first: FirstRun | None, *, greet: Greet, folder: Path, say: Say) -> None:
    """What `serve --demo` does once the platform answers; it goes on without the demo where that fails."""
    await greet(url, first)
    try:
        await run(url, first.platform_key if first else None, folder, say)
    except DemoError as error:
        say(f"{error}\nThe platform keeps running.")


async def run(url: str, platform_key: str | None, folder: Path, say: Say) -> None:
    """Sets the demo up (with a platform key, on an empty platform) or takes it up again, and runs until cancelled.

    `folder` keeps what the agent needs. Raises DemoError.
    """
    if platform_key is None:
        if not folder.exists():
            say("This data folder was not created by the demo. Starting without the demo.")
            return
        say("Resuming the demo. Its keys were printed the first time; to start over, delete the data folder.")
        async with _agent(url, None, folder):
            await asyncio.Event().wait()
    try:
        cast, endpoint = await asyncio.to_thread(_publish_and_deploy, url, platform_key or "", say)
        async with AsyncClient(url, cast.deployer.api_key) as client:
            join_key = await client.join_keys.create(JoinKeyCreate(name="demo agent"))
            say("Starting an agent of `borealis`: it pulls the weights and starts llama.cpp …")
            async with _agent(url, join_key.key, folder):
                await _until_active(client, folder)
                say(_how_to_use(url, cast, endpoint))
                await asyncio.Event().wait()
    except ModelshareError as error:
        raise DemoError(f"The demo stopped: {error}") from error


def _publish_and_deploy(url: str, platform_key: str, say: Say) -> tuple[_Cast, Endpoint]:
    with Client(url, platform_key) as platform:
        owner = platform.platform.create_project(ProjectCreate(name="Acme Labs", slug="acme"))
        deployer = platform.platform.create_project(ProjectCreate(name="Borealis", slug="borealis"))
    with tempfile.TemporaryDirectory() as scratch, Client(url, owner.api_key) as client:
        path = Path(scratch) / f"{MODEL}.gguf"
        write_gguf(path, name=MODEL)
        say(f"`acme` pushes a tiny model ({size(path.stat().st_size)}) and shares it …")
        model = push_model(client, path, name=MODEL).model
        description = "A tiny Llama made for this demo. It gives the same answer to every message."
        client.models.update(model.id, ModelPatch(description=description, tags=["demo"]))
        client.models.share(model.id)
    with Client(url, deployer.api_key) as client:
        say(f"`borealis` finds it in the catalog and creates the endpoint `{SLUG}` …")
        found = next(iter(client.catalog.list(CatalogFilter(q=MODEL))))
        endpoint = client.endpoints.create(EndpointCreate(slug=SLUG, model=found.id, tier=SELF_HOSTED))
    return _Cast(owner, deployer), endpoint


@asynccontextmanager
async def _agent(url: str, join_key: str | None, folder: Path) -> AsyncIterator[None]:
    """A real agent process, stopped in the end; its log is `agent.log` in `folder`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = ["--url", url, "--data-dir", str(folder / "agent"), "--name", "demo-agent"]
    environment = dict(os.environ)
    if join_key is not None:
        environment["MODELSHARE_JOIN_KEY"] = join_key
    with (folder / "agent.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelshare", "agent", *words),
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()


async def _until_active(client: AsyncClient, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_SECONDS
    while True:
        endpoint = await client.endpoints.get(SLUG)
        if endpoint.status is EndpointStatus.ACTIVE:
            return
        if loop.time() > deadline:
            why = endpoint.status_reason or endpoint.status
            raise DemoError(f"The demo's agent did not become ready ({why}). See {folder / 'agent.log'}.")
        await asyncio.sleep(0.1)


def _how_to_use(url: str, cast: _Cast, endpoint: Endpoint) -> str:
    """What is printed once: keys, and three commands that work as they stand."""
    key, base = cast.deployer.api_key, f"{url}/{cast.deployer.id}/{endpoint.slug}/v1"
    question = '{"model": "acme/tiny-chat", "messages": [{"role": "user", "content": "Hello!"}]}'
    python = Path(sys.executable)
    with contextlib.suppress(ValueError):
        python = python.relative_to(Path.cwd())
    program = (
        f"from openai import OpenAI; client = OpenAI(base_url='{base}', api_key='{key}'); "
        "print(client.chat.completions.create(model='acme/tiny-chat', "
        "messages=[{'role': 'user', 'content': 'Hello!'}]).choices[0].message.content)"
    )
    return (
        "\nThe demo is ready. These keys are shown only once:\n\n  acme      owns the model       "
        f"{cast.owner.api_key}\n  borealis  runs the endpoint    {key}\n\nIn a browser: {url}\nSign up there: the "
        "first user to sign up becomes the platform's admin, who can open every project's dashboard.\n\nCopy any of "
        f"these:\n\n  # 1. The public catalog\n  curl -s '{url}/v1/catalog/models?q=tiny'\n\n  # 2. Chat with "
        f"curl\n  curl -s {base}/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: "
        f"application/json' -d '{question}'\n\n  # 3. Chat with the OpenAI client\n  {python} -c "
        f'"{program}"\n\nAPI reference: {url}/docs    Stop: Ctrl-C    Start over: stop, then delete the data '
        "folder\n"
    )
