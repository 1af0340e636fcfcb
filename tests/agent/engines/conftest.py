from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.base import Engine, EngineOptions, EngineSpec, Format, Task
from modelshare.agent.engines.supervisor import ProcessEngine
from modelshare.demo import tiny_model


@pytest.fixture(scope="session")
def chat_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "chat.gguf"
    tiny_model.write_gguf(path)
    return path


@pytest.fixture(scope="session")
def loop_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "loop.gguf"
    tiny_model.write_gguf(path, loop=True)
    return path


@pytest.fixture(scope="session")
def chat_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf") / "chat"
    tiny_model.write_hf(path)
    return path


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(autouse=True)
def environment_of_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests control the stand-in engine by environment variables."""
    monkeypatch.setenv("MODELSHARE_ENGINE_ENV", "STAND_IN_*")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Asserts that every test stops the engines that it started."""
    yield
    children = psutil.Process().children(recursive=True)
    engines = [child for child in children if "modelshare.agent" in " ".join(_command(child))]
    _, alive = psutil.wait_procs(engines, timeout=60)
    assert not alive


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def gguf_spec(path: Path, task: Task = Task.CHAT) -> EngineSpec:
    options = EngineOptions(threads=1, parallel=2)
    return EngineSpec(path=path, served_name="acme/tiny", format=Format.GGUF, task=task, options=options)


Started = Callable[[Engine], Awaitable[Engine]]


@pytest.fixture
async def started() -> AsyncIterator[Started]:
    """Starts an engine, and stops it after the test."""
    async with AsyncExitStack() as stack:

        async def start(engine: Engine) -> Engine:
            await engine.start()
            stack.push_async_callback(engine.stop)
            return engine

        yield start


@pytest.fixture
async def chat_engine(chat_gguf: Path, state_dir: Path, started: Started) -> Engine:
    return await started(ProcessEngine(llamacpp.recipe(gguf_spec(chat_gguf)), state_dir))


@pytest.fixture
async def loop_engine(loop_gguf: Path, state_dir: Path, started: Started) -> Engine:
    return await started(ProcessEngine(llamacpp.recipe(gguf_spec(loop_gguf)), state_dir))
