"""`transformers serve`, pinned to one model: for generative architectures that cannot be converted.

An optional extra, and slow on CPUs. It has no embeddings route, no key, and ends streams without `[DONE]`. It works
on a complete answer to the end even if its client is gone, on its only thread.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Final

from modelshare.agent.engines import parameters
from modelshare.agent.engines.base import ROUTES_OF_TASK, Engine, EngineError, EngineSpec, Format, Route, Task
from modelshare.agent.engines.plugin import EngineType, ModelFacts
from modelshare.agent.engines.recipe import Command, Recipe, start_seconds, weights_size
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing
from modelshare.agent.engines.supervisor import ProcessEngine

_PACKAGES: Final = ("transformers", "torch", "fastapi", "uvicorn")
_FULL_PRECISION_BYTES: Final = 4 << 30
"""Up to this size, float32 is used on CPUs: it generates as fast as bfloat16, with twice the memory."""


class Transformers(EngineType):
    rank = 20

    def missing(self) -> str | None:
        if all(importlib.util.find_spec(package) for package in _PACKAGES):
            return None
        return "it is not installed; install torch and transformers[serving] into the agent's environment."

    def unsuited(self, model: ModelFacts) -> str | None:
        if model.format is Format.GGUF:
            return "GGUF is served by llama.cpp."
        return "it has no embeddings route." if model.task is Task.EMBEDDING else None

    def engine(self, spec: EngineSpec, scratch: Path) -> Engine:
        return ProcessEngine(recipe(spec, scratch), self.machine.state_dir)


def recipe(spec: EngineSpec, private_home: Path) -> Recipe:
    """Raises EngineError for a path that it would misinterpret."""
    if "@" in str(spec.path):
        raise EngineError("transformers reads '@' in a path as a revision; choose a data folder without it.")
    size, context = weights_size(spec), spec.options.context or spec.context_length
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(private_home)}
    return Recipe(
        spec=spec,
        routes=ROUTES_OF_TASK[spec.task] - {Route.EMBEDDINGS},
        relay=RelayPolicy(
            public_name=spec.served_name,
            request_model=None,  # it accepts only the path with a revision as a name
            supports=parameters.TRANSFORMERS,
            usage_on_request=False,
            ends_streams_only=True,
            context_length=context,
        ),
        sharing=Sharing(slots=1, one_by_one=True),  # a single thread processes one request at a time, without a cache
        command=lambda port, _: Command(_argv(spec, size, context, port), env),
        has_key=False,
        start_seconds=start_seconds(size, base=180),
        stop_seconds=10,  # it would wait for open streams indefinitely
    )


def _argv(spec: EngineSpec, size: int, context: int | None, port: int) -> tuple[str, ...]:
    argv = [sys.executable, "-P", "-m", "modelshare.agent.engines.transformers_server"]
    argv += ["--model", str(spec.path), "--port", str(port), "--weights-bytes", str(size)]
    if context is not None:
        argv += ["--context", str(context)]
    if spec.options.gpu:
        argv += ["--gpu"]
    return (*argv, *spec.options.extra_args)


def device_options(*, cuda: bool, declared: str, weights_bytes: int) -> tuple[str, ...]:
    """Where to compute, and with which numbers.

    `cuda`: PyTorch can use a GPU, also one of AMD. `declared`: the type in config.json.
    Not `--device auto`, which moves what does not fit into the GPU's memory to main memory, where it is very slow.
    """
    if cuda:
        return ("--device", "cuda", "--dtype", "float16" if declared == "float16" else "bfloat16")
    return ("--device", "cpu", "--dtype", "float32" if weights_bytes <= _FULL_PRECISION_BYTES else "bfloat16")


def answer_tokens(prompt: int, wanted: int | None, context: int) -> int:
    """The most tokens that an answer may have; less than 1 if the prompt leaves no room for any."""
    left = context - prompt
    return left if wanted is None else min(wanted, left)
