"""vLLM by `ray.serve.llm`, which needs ray[llm] on the agent's machine and on the nodes.

https://docs.ray.io/en/latest/serve/llm/index.html
"""

from pathlib import Path
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase

from modelshare.agent.errors import DeploymentError
from modelshare.agent.ray_serve.keys import KeyCheck
from modelshare.agent.ray_serve.llm_config import llm_config
from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.node import pull_model
from modelshare.agent.ray_serve.settings import Resources


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
