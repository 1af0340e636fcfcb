"""`transformers serve`, pinned to one model: for generative architectures that cannot be converted.

An optional extra, and slow on CPUs. It has no embeddings route, no key, and ends streams without `[DONE]`. It works
on a complete answer to the end even if its client is gone, on its only thread. It does not check the length of prompts.
"""

from pathlib import Path
from typing import Final

from modelshare.agent.engines import parameters
from modelshare.agent.engines.base import ROUTES_OF_TASK, EngineError, EngineSpec, Format, Route, Task
from modelshare.agent.engines.launch import wrapped
from modelshare.agent.engines.plugin import ModelFacts, ProgramType
from modelshare.agent.engines.recipe import Command, Recipe, start_seconds, weights_size
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing

_FULL_PRECISION_BYTES: Final = 4 << 30
"""Up to this size, float32 is used on CPUs: it generates as fast as bfloat16, with twice the memory."""


class Transformers(ProgramType):
    rank = 20
    program = "transformers"
    packages = ("torch", "fastapi", "uvicorn")  # without these it only prints installation instructions
    install = "install torch and transformers[serving] into the agent's environment"

    def unsuited(self, model: ModelFacts) -> str | None:
        if model.format is Format.GGUF:
            return "GGUF is served by llama.cpp."
        return "it has no embeddings route." if model.task is Task.EMBEDDING else None

    def recipe(self, spec: EngineSpec, program: str, scratch: Path) -> Recipe:
        return recipe(spec, program, scratch)


def recipe(spec: EngineSpec, executable: str, private_home: Path) -> Recipe:
    """Raises EngineError for a path that it would misinterpret."""
    if "@" in str(spec.path):
        raise EngineError("transformers reads '@' in a path as a revision; choose a data folder without it.")
    size = weights_size(spec)
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
            context_length=spec.context_length,
        ),
        sharing=Sharing(slots=1, one_by_one=True),  # a single thread processes one request at a time, without a cache
        command=lambda port, _: Command(wrapped(_argv(spec, executable, size, port)), env),
        has_key=False,
        start_seconds=start_seconds(size, base=180),
        stop_seconds=10,  # it would wait for open streams indefinitely
    )


def _argv(spec: EngineSpec, executable: str, size: int, port: int) -> tuple[str, ...]:
    argv = [executable, "serve", str(spec.path), "--host", "127.0.0.1", "--port", str(port)]
    if spec.options.gpu:
        argv += ["--device", "auto", "--dtype", "bfloat16"]
    else:
        argv += ["--device", "cpu", "--dtype", "float32" if size <= _FULL_PRECISION_BYTES else "bfloat16"]
    return (*argv, *spec.options.extra_args)
