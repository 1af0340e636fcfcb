"""Engines end with the agent, however that ends, and leave nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.engines.conftest import gguf_spec
from agent.engines.processes import living
from agent.support import wait_until
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.child import Child
from modelshare.agent.engines.launch import wrapped
from modelshare.agent.engines.leftovers import EngineRecord, reap_leftovers
from modelshare.agent.engines.supervisor import ProcessEngine

pytestmark = pytest.mark.anyio

# A process that starts another one, which would live on; both ignore SIGTERM. It waits until the other one is up, which
# would end of itself if its word came when nobody listens any more.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    other = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
    print(other.stdout.readline(), end="")
print("up", flush=True)
while True:
    time.sleep(60)
"""
AGENT = """
import asyncio, json, sys
from pathlib import Path
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.child import Child
from modelshare.agent.engines.supervisor import ProcessEngine
from agent.engines.conftest import gguf_spec

async def main(kind, model, state_dir, command):
    if kind == "llamacpp":
        await ProcessEngine(llamacpp.recipe(gguf_spec(Path(model))), Path(state_dir)).start()
    else:
        child = await Child.spawn(json.loads(command), {}, Path(state_dir))
        while "up" not in child.log:
            await asyncio.sleep(0.01)
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def agents() -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for agent in running:
        agent.kill()
        agent.communicate()


def start_agent(agents: list[subprocess.Popen[str]], *arguments: object) -> tuple[subprocess.Popen[str], set[int]]:
    """A process with an engine; also the ids of all processes of that engine."""
    tests = Path(__file__).parents[2]
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tests)},
    )
    agents.append(agent)
    assert agent.stdout
    assert agent.stdout.readline() == "started\n"
    return agent, {child.pid for child in psutil.Process(agent.pid).children(recursive=True)}


async def test_llamacpp_does_not_outlive_a_killed_agent(
    agents: list[subprocess.Popen[str]], chat_gguf: Path, state_dir: Path
) -> None:
    agent, engine = start_agent(agents, "llamacpp", chat_gguf, state_dir, "")
    assert living(engine)

    agent.send_signal(signal.SIGKILL)

    await wait_until(lambda: not living(engine), seconds=30)


async def test_a_foreign_engine_does_not_outlive_a_killed_agent(
    agents: list[subprocess.Popen[str]], state_dir: Path
) -> None:
    command = wrapped([sys.executable, "-c", STUBBORN, STUBBORN])
    agent, engine = start_agent(agents, "wrapped", "", state_dir, json.dumps(command))
    assert len(living(engine)) == 3

    agent.send_signal(signal.SIGKILL)

    await wait_until(lambda: not living(engine), seconds=30)


async def test_leftovers_are_reaped(agents: list[subprocess.Popen[str]], state_dir: Path) -> None:
    command = json.dumps([sys.executable, "-c", STUBBORN, STUBBORN])
    agent, engine = start_agent(agents, "plain", "", state_dir, command)
    agent.kill()
    agent.wait()
    assert len(living(engine)) == 2

    assert reap_leftovers(state_dir) == 2

    assert not living(engine)
    assert reap_leftovers(state_dir) == 0


async def test_leftovers_are_found_when_their_first_process_is_gone(
    agents: list[subprocess.Popen[str]], state_dir: Path
) -> None:
    command = json.dumps([sys.executable, "-c", STUBBORN, STUBBORN])
    agent, engine = start_agent(agents, "plain", "", state_dir, command)
    agent.kill()
    agent.wait()
    (record,) = (state_dir / "engines").iterdir()
    first: int = json.loads(record.read_bytes())["pid"]
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: not living({first}))

    assert reap_leftovers(state_dir) == 1

    assert not living(engine)


def test_who_was_given_the_id_later_is_left_alone(state_dir: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
    try:
        EngineRecord(bystander.pid, psutil.Process(bystander.pid).create_time() - 3600).save(state_dir)

        assert reap_leftovers(state_dir) == 0

        assert bystander.poll() is None
        assert not list((state_dir / "engines").iterdir())
    finally:
        bystander.kill()
        bystander.wait()


async def test_what_ignores_sigterm_is_killed_with_all_it_started(state_dir: Path) -> None:
    child = await Child.spawn([sys.executable, "-c", STUBBORN, STUBBORN], {}, state_dir)
    await wait_until(lambda: list(child.log) == ["up", "up"])
    (record,) = (state_dir / "engines").iterdir()
    engine = {process.pid for process in EngineRecord(**json.loads(record.read_bytes())).members()}
    assert len(engine) == 2

    await child.destroy(0.2)

    assert not living(engine)
    assert child.returncode == -signal.SIGKILL
    assert not record.exists()


async def test_a_first_process_that_ends_before_the_others_is_noticed_at_once(state_dir: Path) -> None:
    script = f"import subprocess, sys; print('bye', flush=True); subprocess.Popen([sys.executable, '-c', {STUBBORN!r}])"
    child = await Child.spawn([sys.executable, "-c", script], {}, state_dir)

    assert await asyncio.wait_for(child.exited(), 60) == 0

    assert child.log[0] == "bye"
    await child.destroy(0.0)


async def test_the_launcher_ends_as_its_program_does(state_dir: Path) -> None:
    child = await Child.spawn(wrapped([sys.executable, "-c", "print('words'); raise SystemExit(7)"]), {}, state_dir)

    assert await asyncio.wait_for(child.exited(), 60) == 7

    assert list(child.log) == ["words"]
    await child.destroy(0.0)


async def test_the_launcher_says_what_it_cannot_start(state_dir: Path) -> None:
    child = await Child.spawn(wrapped(["/nonexistent/vllm"]), {}, state_dir)

    assert await asyncio.wait_for(child.exited(), 60) == 127

    assert list(child.log) == ["/nonexistent/vllm cannot be started: No such file or directory"]
    await child.destroy(0.0)


async def test_the_agents_end_is_noticed_while_the_interpreter_is_held() -> None:
    """As it is for minutes while llama.cpp loads a large model."""
    held = "import re; from modelshare.agent.engines import lifeline; lifeline.attach(); print('up', flush=True);"
    busy = await asyncio.create_subprocess_exec(
        sys.executable, "-c", held + "re.match('(a+)+b', 'a' * 60)", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert busy.stdin
    assert busy.stdout
    assert await busy.stdout.readline() == b"up\n"

    busy.stdin.close()

    assert await asyncio.wait_for(busy.wait(), 60) == -signal.SIGIO


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone is told whom to end when memory runs out")
async def test_an_engine_that_loads_is_the_first_to_go_when_memory_runs_out(chat_gguf: Path, tmp_path: Path) -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    def engines() -> list[int]:
        return [json.loads(path.read_bytes())["pid"] for path in (tmp_path / "engines").glob("*.json")]

    engine = ProcessEngine(llamacpp.recipe(gguf_spec(chat_gguf)), tmp_path)
    starting = asyncio.ensure_future(engine.start())
    await wait_until(lambda: any(score(pid) > score("self") for pid in engines()))
    await starting
    assert [score(pid) for pid in engines()] == [score("self")]
    await engine.stop()
