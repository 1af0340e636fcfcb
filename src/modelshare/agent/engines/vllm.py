"""vLLM: safetensors on GPUs. Options as of 0.33, https://docs.vllm.ai/en/latest/cli/serve/."""

from pathlib import Path
from typing import Final

from modelshare.agent.engines import parameters
from modelshare.agent.engines.base import ROUTES_OF_TASK, EngineSpec, Task
from modelshare.agent.engines.launch import wrapped
from modelshare.agent.engines.plugin import SafetensorsProgram
from modelshare.agent.engines.recipe import Command, LoadMetrics, Recipe, start_seconds, weights_size
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import MANY_SLOTS, PromptCache, Sharing
from modelshare.embedder import Embedder

_DRAIN_SECONDS = 30
_KNOWN_MODULES: Final = frozenset(
    f"sentence_transformers.{name}"
    for name in (
        *("models.Pooling", "sentence_transformer.modules.pooling.Pooling"),
        *("models.Normalize", "base.modules.normalize.Normalize", "sentence_transformer.modules.normalize.Normalize"),
        *("models.Dense", "base.modules.dense.Dense"),
    )
)
"""Modules of sentence-transformers that it reads: `get_pooling_config` in
https://github.com/vllm-project/vllm/blob/main/vllm/transformers_utils/config.py."""


class VLLM(SafetensorsProgram):
    rank = 30
    needs_gpu = True
    program = "vllm"
    install = "install vllm, so that its program is on PATH"

    def pooling_obstacle(self, embedder: Embedder) -> str | None:
        if embedder.obstacle:
            return embedder.obstacle
        if embedder.transformer:
            return "its Transformer is in a separate folder, where vLLM does not look for it."
        if not embedder.types:
            return "it has no modules.json, which vLLM needs to read the pooling."
        if unknown := next((type_ for type_ in embedder.types[1:] if type_ not in _KNOWN_MODULES), None):
            return f"vLLM does not support its module {unknown}."
        kinds = [layer.kind for layer in embedder.layers]
        if embedder.dimensions or kinds != sorted(kinds, key=lambda kind: kind == "Normalize"):
            return "vLLM supports Dense layers followed by normalization, and nothing after that."
        return None

    def recipe(self, spec: EngineSpec, program: str, scratch: Path) -> Recipe:
        del scratch
        return recipe(spec, program)


def recipe(spec: EngineSpec, executable: str) -> Recipe:
    return Recipe(
        spec=spec,
        routes=ROUTES_OF_TASK[spec.task],
        relay=RelayPolicy(
            public_name=spec.served_name,
            request_model=spec.served_name,
            takes=parameters.VLLM,
            counts_all=True,
            context_length=spec.options.context or spec.context_length,
            texts=spec.texts,
        ),
        sharing=Sharing(slots=spec.options.parallel or MANY_SLOTS, cache=PromptCache.SALTED),
        command=lambda port, key: Command(
            wrapped(_argv(spec, executable, port)),
            {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
        ),
        metrics=LoadMetrics(
            running="vllm:num_requests_running",
            waiting="vllm:num_requests_waiting",
            work=("vllm:prompt_tokens_total", "vllm:generation_tokens_total"),
        ),
        start_seconds=start_seconds(weights_size(spec), base=900),  # it compiles and captures graphs
        stop_seconds=_DRAIN_SECONDS + 15,
    )


def _argv(spec: EngineSpec, executable: str, port: int) -> tuple[str, ...]:
    argv = [executable, "serve", str(spec.path), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--served-model-name", spec.served_name]
    argv += ["--shutdown-timeout", str(_DRAIN_SECONDS)]  # by default it aborts running requests
    argv += ["--disable-fastapi-docs"]
    if spec.task is Task.EMBEDDING:
        argv += ["--runner", "pooling"]
    if spec.options.context:
        argv += ["--max-model-len", str(spec.options.context)]
    return (*argv, *spec.options.extra_args)
