"""Why a cluster does not run a deployment, in a sentence. Pure."""

import math
import re
from typing import Any, Final

from modelshare.agent.ray_serve.settings import Resources, in_words

_ERROR: Final = re.compile(r"(?:^|[\s(])(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)(?:\([\w.]+\))?: (.+)")
"""A line of a traceback that names the error; Ray adds the class of the cause."""


def missing_room(nodes: list[dict[str, Any]], resources: Resources) -> str | None:
    """Why none of the nodes (`ray.nodes()`) can have a replica, even if it runs nothing else; None if one can."""
    needed = resources.by_ray_name
    totals: list[dict[str, float]] = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(total.get(name, 0) >= count for name, count in needed.items()) for total in totals):
        return None
    largest = {name: max((total.get(name, 0) for total in totals), default=0) for name in (*needed, "CPU")}
    apart = ", not all of it on one node" if all(largest[name] >= count for name, count in needed.items()) else ""
    return (
        f"No node of the Ray cluster has room for a replica, which needs {in_words(needed)}; the most that a node has "
        f"is {in_words(largest)}{apart}. Add a node, or change `needs` in the settings for Ray."
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
