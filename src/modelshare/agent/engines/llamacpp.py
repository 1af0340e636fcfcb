"""llama.cpp through the wheel `xllamacpp`: the default for GGUF, and for safetensors after conversion."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from subprocess import DEVNULL
from typing import Final

import msgspec

from modelshare.agent.engines import parameters
from modelshare.agent.engines.base import ROUTES_OF_TASK, Engine, EngineError, EngineSpec, Format, Task
from modelshare.agent.engines.child import engine_environment
from modelshare.agent.engines.plugin import EngineType, ModelFacts
from modelshare.agent.engines.recipe import Command, LoadMetrics, Recipe, RecipeFacts, start_seconds, weights_size
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import FEW_SLOTS, PromptCache, Sharing
from modelshare.agent.engines.supervisor import ProcessEngine

DEFAULT_CONTEXT: Final = 8192
"""Default tokens per request: the full context of a long-context model would fill the memory."""
_GPU_SECONDS: Final = 60
"""A driver that no process uses takes seconds to start."""


class LlamaCpp(EngineType):
    rank = 10
    wants_gguf = True

    def missing(self) -> str | None:
        if importlib.util.find_spec("xllamacpp"):
            return None
        return "not installed; run your platform's installer again, with --agent."

    def unsuited(self, model: ModelFacts) -> str | None:
        if model.format is Format.PICKLE:
            return "it reads GGUF, and pickles cannot be converted; push the model as safetensors or GGUF."
        return model.unconvertible if model.format is Format.SAFETENSORS else None

    def engine(self, spec: EngineSpec, scratch: Path) -> Engine:
        del scratch
        options = replace(spec.options, gpu=self._has_gpu)
        return ProcessEngine(recipe(replace(spec, options=options)), self.machine.state_dir)

    @cached_property
    def _has_gpu(self) -> bool:
        """Whether it can use one; its wheel may be for CPUs only."""
        return self.machine.gpu and _can_use_gpu()


def _can_use_gpu() -> bool:
    argv = [sys.executable, "-P", "-m", "modelshare.agent.engines.llamacpp_gpus"]
    environment = engine_environment(os.environ)
    try:
        asked = subprocess.run(  # noqa: S603  our own program
            argv, env=environment, stdin=DEVNULL, capture_output=True, timeout=_GPU_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def recipe(spec: EngineSpec) -> Recipe:
    """Raises EngineError if `spec.path` is not a GGUF model."""
    if not spec.path.is_file():
        raise EngineError("The files contain no GGUF model; push one, or choose another engine.")
    return Recipe(
        spec=spec,
        routes=ROUTES_OF_TASK[spec.task],
        relay=RelayPolicy(
            public_name=spec.served_name,
            request_model=spec.served_name,
            supports=parameters.LLAMACPP,
            chat_logprobs=True,
            context_length=_context(spec),
            texts=spec.texts,
            normalizes=spec.normalizes,
            finish=spec.finish,
        ),
        sharing=Sharing(slots=spec.options.parallel or FEW_SLOTS, one_by_one=True, cache=PromptCache.SLOTS),
        command=lambda port, key: Command(_argv(spec, port), {"ENGINE_API_KEY": key}),
        facts=RecipeFacts("/props", refined),
        metrics=LoadMetrics("llamacpp:requests_processing", "llamacpp:requests_deferred", ("llamacpp:n_decode_total",)),
        mapped_bytes=0 if spec.options.gpu else weights_size(spec),
        start_seconds=start_seconds(weights_size(spec), base=60),
    )


class _Template(msgspec.Struct):
    supports_tools: bool = False
    supports_tool_calls: bool = False


class _Props(msgspec.Struct):
    chat_template_caps: _Template | None = None


def refined(policy: RelayPolicy, props: bytes) -> RelayPolicy:
    """Disables tools unless the model's chat template supports them: otherwise llama.cpp silently ignores them."""
    try:
        template = msgspec.json.decode(props, type=_Props).chat_template_caps
    except msgspec.DecodeError:
        return policy
    if template is None or template.supports_tools or template.supports_tool_calls:
        return policy
    return replace(policy, supports=policy.supports - parameters.TOOLS)


def _context(spec: EngineSpec) -> int:
    """Tokens per request."""
    return spec.options.context or min(spec.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def _argv(spec: EngineSpec, port: int) -> tuple[str, ...]:
    options = spec.options
    argv = [sys.executable, "-P", "-m", "modelshare.agent.engines.llamacpp_server"]
    argv += ["--model", str(spec.path), "--alias", spec.served_name, "--port", str(port)]
    argv += ["--parallel", str(options.parallel or FEW_SLOTS), "--context", str(_context(spec))]
    if options.threads:
        argv += ["--threads", str(options.threads)]
    if options.gpu:
        argv += ["--gpu"]
    if spec.task is Task.EMBEDDING:
        argv += ["--embedding"]
    return (*argv, *options.extra_args)
