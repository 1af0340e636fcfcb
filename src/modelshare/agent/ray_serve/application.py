"""The Serve application of a deployment: how it is placed and scaled. Needs Ray."""

import math
import re
from typing import Any, Final

from ray import serve

from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.settings import Resources, in_words

_WINDOW_SECONDS: Final = 30.0
"""Serve counts requests in progress on average over this time, and replicas report them three times in it, by default."""
_ERROR: Final = re.compile(r"(?:^|[\s(])(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)(?:\([\w.]+\))?: (.+)")


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
        from modelshare.agent.ray_serve.llm import llm_application  # noqa: PLC0415 - needs ray[llm]

        return llm_application(plan, resources, autoscaling(plan))
    from modelshare.agent.ray_serve.replica import Replica  # noqa: PLC0415 - as above: one of the two

    deployment = serve.deployment(
        Replica,
        name="replica",
        ray_actor_options={"num_cpus": resources.cpus, "num_gpus": resources.gpus, "memory": resources.memory},
        autoscaling_config=autoscaling(plan),
        max_ongoing_requests=plan.parallel,
        max_constructor_retry_count=1,  # the agent itself tries again, later and later
        health_check_period_s=5,
        graceful_shutdown_timeout_s=10,
    )
    return deployment.bind(plan, resources)


def missing_room(nodes: list[dict[str, Any]], resources: Resources) -> str | None:
    """Why none of the nodes (`ray.nodes()`) can have a replica, even if it runs nothing else; None if one can."""
    needed = resources.by_ray_name
    totals: list[dict[str, float]] = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(total.get(name, 0) >= count for name, count in needed.items()) for total in totals):
        return None
    largest = {name: max((total.get(name, 0) for total in totals), default=0) for name in (*needed, "CPU")}
    return (
        f"No node of the Ray cluster has room for a replica, which needs {in_words(needed)}; the most that a node has "
        f"is {in_words(largest)}. Add a node, or change `needs` in the settings for Ray."
    )


def busy(available: dict[str, float], resources: Resources) -> str:
    """Why a replica was not placed although a node could have it; `available`: of the whole cluster."""
    needed = resources.by_ray_name
    free = {name: math.floor(available.get(name, 0) * 100) / 100 for name in (*needed, "CPU")}
    return (
        f"The Ray cluster is busy: a replica needs {in_words(needed)} on one node, and {in_words(free)} are free on "
        "all nodes together. Add a node, or end what runs there."
    )


def error_in(message: str) -> str:
    """The error in the traceback that Serve quotes; else its last line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if any("No module named 'modelshare'" in line for line in lines):
        return "modelshare is not installed on a node of the Ray cluster. Install it there as on the agent's machine."
    found = [match[1] for line in lines if (match := _ERROR.search(line))]
    return found[-1] if found else lines[-1] if lines else "Ray Serve gives no reason."
