"""SGLang: safetensors on GPUs. Options as of 0.5.23, https://docs.sglang.ai/advanced_features/server_arguments.html."""

from pathlib import Path

from modelshare.agent.engines import parameters
from modelshare.agent.engines.base import ROUTES_OF_TASK, EngineError, EngineSpec, Task
from modelshare.agent.engines.launch import wrapped
from modelshare.agent.engines.plugin import SafetensorsProgram
from modelshare.agent.engines.recipe import Command, LoadMetrics, Recipe, start_seconds, weights_size
from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import MANY_SLOTS, PromptCache, Sharing
from modelshare.embedder import Embedder


class SGLang(SafetensorsProgram):
    rank = 40
    needs_gpu = True
    program = "sglang"
    install = "install sglang, so that its program is on PATH"

    def pooling_obstacle(self, embedder: Embedder) -> str | None:
        """It ignores sentence-transformers' files: https://docs.sglang.ai/supported_models/embedding_models.html."""
        kinds = [layer.kind for layer in embedder.layers]
        plain = embedder.obstacle is None and not embedder.transformer and embedder.dimensions is None
        if not plain or embedder.pooling != "lasttoken" or kinds != ["Normalize"]:
            return "SGLang ignores its pooling, and always takes the last token's vector, normalized."
        return None

    def recipe(self, spec: EngineSpec, program: str, scratch: Path) -> Recipe:
        del scratch
        return recipe(spec, program)


def recipe(spec: EngineSpec, executable: str) -> Recipe:
    """Raises EngineError for a name that SGLang does not support."""
    if ":" in spec.served_name:
        raise EngineError("SGLang cannot serve a model whose name has a colon; choose another engine.")
    return Recipe(
        spec=spec,
        routes=ROUTES_OF_TASK[spec.task],
        relay=RelayPolicy(
            public_name=spec.served_name,
            request_model=spec.served_name,
            takes=parameters.SGLANG,
            counts_all=True,
            context_length=spec.options.context or spec.context_length,
            texts=spec.texts,
        ),
        sharing=Sharing(slots=spec.options.parallel or MANY_SLOTS, cache=PromptCache.SALTED),
        command=lambda port, key: Command(wrapped(_argv(spec, executable, port, key)), {"HF_HUB_OFFLINE": "1"}),
        health_seconds=30.0,  # the route generates a token, with a timeout of 20 s
        metrics=LoadMetrics("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        start_seconds=start_seconds(weights_size(spec), base=900),
        stop_seconds=45,
    )


def _argv(spec: EngineSpec, executable: str, port: int, key: str) -> tuple[str, ...]:
    argv = [executable, "serve", "--model-path", str(spec.path), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--served-model-name", spec.served_name]
    argv += ["--api-key", key]  # it has no variable for it, so users of this machine can see it
    argv += ["--enable-metrics"]
    if spec.task is Task.EMBEDDING:
        argv += ["--is-embedding", "--disable-radix-cache"]  # its embeddings do not support a cache salt
    if spec.options.context:
        argv += ["--context-length", str(spec.options.context)]
    return (*argv, *spec.options.extra_args)
