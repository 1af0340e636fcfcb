"""The configuration of vLLM on a cluster. Pure."""

from typing import Any, Final

from modelshare.agent.engines.base import Task
from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.settings import Resources

_CALLBACK: Final = "modelshare.agent.ray_serve.llm.Weights"


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
        "callback_config": {"callback_class": _CALLBACK, "callback_kwargs": {"plan": plan}},
    }
