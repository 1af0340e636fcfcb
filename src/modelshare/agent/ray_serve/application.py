"""The Serve application of a deployment: how it is placed and scaled. Needs Ray."""

from typing import Any, Final

from ray import serve

from modelshare.agent.ray_serve.llm import llm_application
from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.replica import Replica
from modelshare.agent.ray_serve.settings import Resources

_BESIDE: Final = 2
"""Requests that a replica takes besides those for its engine: for its facts, and a look whether the engine answers."""
_WINDOW_SECONDS: Final = 30.0
"""By default, Serve counts requests on average over this time, in which replicas report three times."""


def application_name(deployment_id: str) -> str:
    return f"modelshare-{deployment_id}"


def route_prefix(deployment_id: str) -> str:
    return f"/modelshare/{deployment_id}"


def weights_bytes(plan: Deploy) -> int:
    """Size of the files that an engine opens; of all, if an older server does not say which these are."""
    wanted = plan.wanted
    return sum(file.size for file in wanted.files if not wanted.weights or file.path in wanted.weights)


def autoscaling(plan: Deploy) -> dict[str, Any]:
    replicas = plan.settings.replicas
    target = replicas.target_requests or max(1, plan.parallel / 2)
    window = min(_WINDOW_SECONDS, max(1.0, replicas.up_after_seconds))
    return {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": target,
        "upscale_delay_s": replicas.up_after_seconds,
        "downscale_delay_s": replicas.down_after_seconds,
        "look_back_period_s": window,
        "metrics_interval_s": window / 3,
    }


def application(plan: Deploy, resources: Resources) -> Any:
    if plan.settings.uses_ray_llm:
        return llm_application(plan, resources, autoscaling(plan))
    deployment = serve.deployment(
        Replica,
        name="replica",
        ray_actor_options={"num_cpus": resources.cpus, "num_gpus": resources.gpus, "memory": resources.memory},
        autoscaling_config=autoscaling(plan),
        max_ongoing_requests=plan.parallel + _BESIDE,
        max_constructor_retry_count=1,  # the agent itself tries again, later and later
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
    )
    return deployment.bind(plan, resources)
