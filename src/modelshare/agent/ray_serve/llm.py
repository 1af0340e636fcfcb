"""vLLM by `ray.serve.llm`, which needs ray[llm] on the agent's machine and on the nodes.

https://docs.ray.io/en/latest/serve/llm/index.html
"""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from modelshare.agent.engines.base import Task
from modelshare.agent.errors import DeploymentError
from modelshare.agent.ray_serve.keys import is_key
from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.node import pull_model
from modelshare.agent.ray_serve.settings import Resources


def llm_config(plan: Deploy, resources: Resources, autoscaling: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `LLMConfig`: a replica uses GPUs of one node, which pulls the weights before vLLM begins."""
    wanted = plan.wanted
    gpus = max(1, int(resources.gpus))
    embeds = {"runner": "pooling"} if wanted.task == Task.EMBEDDING else {}
    return {
        # The folder is named by `Weights` on each node, since it differs between nodes.
        "model_loading_config": {"model_id": wanted.served_name, "model_source": wanted.served_name},
        "engine_kwargs": {"tensor_parallel_size": gpus, **embeds, **plan.settings.vllm},
        "placement_group_config": {
            "bundles": [{"CPU": resources.cpus / gpus, "GPU": 1}] * gpus,
            "strategy": "STRICT_PACK",
        },
        "deployment_config": {
            "autoscaling_config": autoscaling,
            "max_ongoing_requests": plan.parallel,
            "max_constructor_retry_count": 1,
        },
        "runtime_env": {"env_vars": {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}},
        "callback_config": {"callback_class": Weights, "callback_kwargs": {"plan": plan}},
    }


class Weights(CallbackBase):  # type: ignore[misc]  # Ray has no types
    """Makes vLLM load the files that this node has pulled, and nothing by the model's name."""

    async def on_before_node_init(self) -> None:
        """Called before the engine starts."""
        folder = await self.pulled()
        self.llm_config.get_engine_config().hf_model_id = str(folder)
        self.ctx.run_init_node = False

    async def pulled(self) -> Path:
        plan: Deploy = self.kwargs["plan"]
        return await pull_model(plan)


class KeyCheck:
    """ASGI middleware: only the agent gets through."""

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = dict(scope.get("headers", ())).get(b"authorization", b"").decode("latin-1")
        if scope["type"] != "http" or is_key(sent, self._digest):
            await self._app(scope, receive, send)
        else:
            await Response(status_code=HTTPStatus.UNAUTHORIZED)(scope, receive, send)


def llm_application(plan: Deploy, resources: Resources, autoscaling: dict[str, Any]) -> Any:
    """As Ray's `build_openai_app`, behind a check of the agent's key. Raises DeploymentError without ray[llm]."""
    try:
        from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata  # noqa: PLC0415
        from ray.llm._internal.serve.core.ingress.ingress import init  # noqa: PLC0415 - as below: needs vLLM
        from ray.serve.llm import LLMConfig, build_llm_deployment  # noqa: PLC0415
        from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress  # noqa: PLC0415
    except ImportError as error:
        raise DeploymentError(f"vLLM on a Ray cluster needs ray[llm]: {error}") from error
    config = LLMConfig(**llm_config(plan, resources, autoscaling))
    app = init()
    app.add_middleware(KeyCheck, digest=plan.key_digest)
    ingress = serve.deployment(
        make_fastapi_ingress(OpenAiIngress, app=app), **OpenAiIngress.get_deployment_options([config])
    )
    name = config.model_id
    return ingress.bind(
        llm_deployments={name: build_llm_deployment(config)}, model_cards={name: to_model_metadata(name, config)}
    )
