"""All processes of an engine: started together, logged, and stopped completely."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Self

from modelshare.agent.engines.base import EngineError
from modelshare.agent.engines.leftovers import EngineRecord, kill

_LOG_LINES: Final = 200
_LINE_BYTES: Final = 2000
_POLL: Final = 0.05
_GONE_SECONDS: Final = 10.0
_LAST_WORDS_SECONDS: Final = 1.0
_EXPENDABLE: Final = 500
_FIRST_TO_GO: Final = 1000
"""The maximum of `oom_score_adj` (proc(5))."""
MORE_VARIABLES: Final = "MODELSHARE_ENGINE_ENV"
"""Names of further variables that the operator wants to pass on, separated by commas; a name may end in `*`."""
# fmt: off
_VARIABLES: Final = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "TEMP", "TMP",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_CACHE_HOME", "HF_HOME",
    "HF_HUB_CACHE",
})
"""Variables with which any program finds its libraries, folders and language."""
_PREFIXES: Final = (
    "LC_", "PYTHON", "CUDA_", "NVIDIA_", "NCCL_", "CUDNN_", "HIP_", "HSA_", "ROCM_", "ROCR_", "RCCL_",
    "GPU_", "ONEAPI_", "SYCL_", "ZE_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "GGML_",
    "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "VLLM_", "SGLANG_", "SGL_",
)
# fmt: on
"""Configuration of accelerators, threads and the engines themselves."""
_SECRETS: Final = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
"""Variables of these families whose name contains one of these words are not configuration."""


class Child:
    """A process in its own session. Its standard input stays open for as long as the agent lives."""

    def __init__(self, process: Process, record: EngineRecord, record_file: Path) -> None:
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self._process = process
        self._record = record
        self._record_file = record_file
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def spawn(
        cls, argv: Sequence[str], env: Mapping[str, str], state_dir: Path, *, pass_fds: Sequence[int] = ()
    ) -> Self:
        """Starts the program with `env` added to `engine_environment`, and with these open files.

        Raises EngineError if it cannot be started.
        """
        inherited = engine_environment(os.environ)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                env={**inherited, **env},
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise EngineError(f"{argv[0]} cannot be started: {error.strerror}; check the engine's path.") from error
        record = EngineRecord.of(process.pid)
        return cls(process, record, record.save(state_dir))

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def set_expendable(self, *, yes: bool) -> None:
        """Whether the kernel kills this engine before other processes if memory runs out (Linux)."""
        with contextlib.suppress(OSError):
            usual = int(Path("/proc/self/oom_score_adj").read_text())
            score = min(usual + _EXPENDABLE, _FIRST_TO_GO) if yes else usual
            for process in self._record.members():
                Path(f"/proc/{process.pid}/oom_score_adj").write_text(str(score))

    async def exited(self) -> int:
        """Waits until the process has exited and its last output is in `log`; returns the exit code."""
        # Neither Process.wait() nor the end of the log is sufficient, since a descendant may hold the pipe open.
        while self._process.returncode is None:  # noqa: ASYNC110  asyncio has no event for it
            await asyncio.sleep(_POLL)
        await asyncio.wait([self._reader], timeout=_LAST_WORDS_SECONDS)
        return self._process.returncode

    async def destroy(self, term_seconds: float) -> None:
        """Sends SIGTERM, and after `term_seconds` SIGKILL to the remaining processes.

        Raises EngineError if any survives.
        """
        try:
            self._signal_group(signal.SIGTERM)
            if not await self._gone(term_seconds):
                kill(self._record.members())
                if not await self._gone(_GONE_SECONDS):
                    pids = ", ".join(str(process.pid) for process in self._record.members())
                    raise EngineError(f"The engine's processes do not exit, not even after SIGKILL: {pids}.")
            self._record_file.unlink(missing_ok=True)
        finally:
            self._reader.cancel()
            if self._process.stdin:
                self._process.stdin.close()

    async def _gone(self, within: float) -> bool:
        deadline = monotonic() + within
        while self._process.returncode is None or self._record.members():
            if monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL)
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._record.pid, number)

    async def _read(self) -> None:
        assert self._process.stdout  # noqa: S101  it was made with a pipe
        rest = b""
        while chunk := await self._process.stdout.read(1 << 16):
            # Progress bars rewrite a line with carriage returns.
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            self._keep(lines)
            rest = rest[:_LINE_BYTES]
        self._keep([rest])

    def _keep(self, lines: Sequence[bytes]) -> None:
        self.log.extend(line[:_LINE_BYTES].decode("utf-8", "replace") for line in lines if line)


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that engines need and those in `MORE_VARIABLES`, but none that are only for the agent."""
    more = [name.strip() for name in environ.get(MORE_VARIABLES, "").split(",") if name.strip()]
    return {name: value for name, value in environ.items() if _is_needed(name) or _is_named(name, more)}


def _is_needed(name: str) -> bool:
    return name in _VARIABLES or (name.startswith(_PREFIXES) and not any(word in name.upper() for word in _SECRETS))


def _is_named(name: str, more: list[str]) -> bool:
    if name.startswith("MODELSHARE_"):
        return False
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in more)
