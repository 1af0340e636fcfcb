"""llama.cpp's own HTTP server in a separate process: `python -m modelshare.agent.engines.llamacpp_server --model F`.

The secret is in `ENGINE_API_KEY`. Prints READY and the address once the model is loaded. SIGTERM lets running requests
finish for up to `--grace` seconds. Exits with 0 when stopped and with 1 if the model cannot be loaded. Exits as well
when its standard input closes.
"""

import argparse
import errno
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import xllamacpp

from modelshare.agent.engines import lifeline
from modelshare.agent.engines.diagnosis import NOT_LOADED, PORT_TAKEN

_MAX_BATCH = 8192
"""Maximum tokens of one input to an embedding model. It is computed in one batch, whose buffers grow with it."""


def main() -> None:
    arguments = _parse()
    lifeline.attach()
    stop = threading.Event()
    try:
        server = xllamacpp.Server(_params(arguments))  # returns when the model is loaded
    except RuntimeError as error:
        # Exit normally, so that llama.cpp's log is flushed; its last lines may still be lost.
        taken = _is_taken(arguments.host, arguments.port)
        # A line of its own even if llama.cpp's thread is in the middle of one.
        raise SystemExit(f"\n{PORT_TAKEN if taken else f'{NOT_LOADED}: {arguments.model}: {error}'}") from error
    for number in (signal.SIGTERM, signal.SIGINT):  # after Server(), which installs handlers of its own
        signal.signal(number, lambda *_: stop.set())
    print("READY", server.listening_address, flush=True)  # noqa: T201  for people who run it by hand
    stop.wait()
    _drain(server, arguments.grace)
    os._exit(0)  # destroying a Server with an open stream blocks for half a minute


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--context", type=int, required=True, help="tokens per request")
    parser.add_argument("--threads", type=int, default=_usable_cores())
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--grace", type=float, default=1.0)
    return parser.parse_args()


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _usable_cores() -> int:
    # Not os.cpu_count(), since a container may have fewer than the machine.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _params(arguments: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(Path(arguments.model))
    params.model_alias = {arguments.alias}
    params.hostnames = [arguments.host]
    params.port = arguments.port
    params.api_keys = [os.environ["ENGINE_API_KEY"]]
    params.n_parallel = arguments.parallel
    params.n_ctx = arguments.context * arguments.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = arguments.threads
    params.n_gpu_layers = -1 if arguments.gpu else 0
    params.offline = True
    params.endpoint_metrics = True
    params.endpoint_slots = False  # would reveal the prompts of other tenants
    params.cors_origins = ""  # by default, all origins
    params.ui = False
    params.cache_ram_mib = 0  # by default, 8 GiB of old prompts
    if arguments.embedding:
        params.embedding = True
        params.n_batch = params.n_ubatch = min(arguments.context, _MAX_BATCH)
        # Otherwise texts of different lengths in a batch are split into steps, of which only the last is pooled.
        params.kv_unified = True
    return params


def _drain(server: Any, grace: float) -> None:
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and _requests(server):
        time.sleep(0.05)


def _requests(server: Any) -> float:
    lines = (line.rsplit(" ", 1) for line in server.handle_metrics().splitlines() if line and not line.startswith("#"))
    gauges = dict(lines)
    return float(gauges["llamacpp:requests_processing"]) + float(gauges["llamacpp:requests_deferred"])


if __name__ == "__main__":
    main()
