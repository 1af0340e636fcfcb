"""Becomes `modelshare serve` as often as it is asked to: a process that has imported the server forks for each.

Importing takes most of a server's start. See `programs.Forked`, which sends a line of JSON with the arguments, the
environment and the folder, and three descriptors: for the output, for errors, and for the process id and exit code.
"""

import gc
import json
import os
import signal
import socket
import sys

import modelshare.server.cli  # noqa: F401 - what this process is for
from modelshare.cli import main


def requested(requests: socket.socket) -> list[str]:
    """The arguments of a server. Returns once for each request, in a process of its own."""
    while True:
        line, descriptors, _, _ = socket.recv_fds(requests, 1 << 16, 3)
        while line and not line.endswith(b"\n"):
            line += requests.recv(1 << 16)
        if not line:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    output, errors, end = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server = os.fork()
    if server:
        os.close(output)
        os.close(errors)
        os.write(end, f"{server}\n".encode())
        os.write(end, f"{os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])}\n".encode())
        os._exit(0)
    os.close(end)
    os.setsid()
    request = json.loads(line)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for descriptor, own in ((output, 1), (errors, 2)):
        os.dup2(descriptor, own)
        os.close(descriptor)
    return list(request["words"])


if __name__ == "__main__":
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.argv[1:] = requested(socket.socket(fileno=int(sys.argv[1])))
    main()
