"""vLLM: safetensors on GPUs. Options as of 0.33, https://docs.vllm.ai/en/latest/cli/serve/."""

from modelshare.agent.engines import parameters
from modelshare.agent.engines.base import ROUTES_OF_TASK, EngineKind, EngineSpec, Task
from modelshare.agent.engines.launch import wrapped
from modelshare.agent.engines.recipe import Command, LoadMetrics, Recipe, start_seconds, weights_size
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import MANY_SLOTS, PromptCache, Sharing

_DRAIN_SECONDS = 30


def recipe(spec: EngineSpec, executable: str) -> Recipe:
    return Recipe(
        kind=EngineKind.VLLM,
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
    argv += ["--shutdown-timeout", str(_DRAIN_SECONDS)]  # it aborts running requests otherwise
    argv += ["--disable-fastapi-docs"]
    if spec.task is Task.EMBEDDING:
        argv += ["--runner", "pooling"]
    if spec.options.context:
        argv += ["--max-model-len", str(spec.options.context)]
    return (*argv, *spec.options.extra_args)
