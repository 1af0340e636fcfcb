"""A Ray cluster of two nodes on this machine, for tests: `python ray_nodes.py FOLDER HTTP_PORT`.

Prints the cluster's address once Serve runs, and ends it when standard input closes. Each node has one CPU, and keeps
weights in a folder of its own (`FOLDER/one`, `FOLDER/two`).
"""

import sys
from pathlib import Path

import ray
from ray import serve
from ray._private import utils
from ray.cluster_utils import Cluster

OBJECTS = 80_000_000
"""Bytes of /dev/shm per node."""


def main(folder: Path, port: int) -> None:
    # Nodes without dashboard agents: these would take seconds of two cores to start.
    utils.get_dashboard_dependency_error = lambda: ImportError("not needed")
    cluster = started(folder)
    try:
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        sys.stdin.read()
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def started(folder: Path, *, attempts: int = 3) -> Cluster:
    """Ray gives a node half a minute to start, which cannot be changed and is short where the cores are busy."""
    cluster = Cluster()
    try:
        for name in ("one", "two"):
            variables = {"MODELSHARE_RAY_CACHE": str(folder / name)}
            cluster.add_node(
                num_cpus=1, object_store_memory=OBJECTS, env_vars=variables, include_dashboard=False, wait=False
            )
        cluster.wait_for_nodes()
    except Exception:
        cluster.shutdown()
        if attempts == 1:
            raise
        return started(folder, attempts=attempts - 1)
    return cluster


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
