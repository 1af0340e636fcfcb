"""Stops our own programs when the agent dies for any reason. Their standard input is a pipe from the agent."""

import fcntl
import os
import select
import signal
import sys
from typing import Final

SIGNAL: Final = signal.SIGIO


def attach() -> None:
    """Makes the kernel send `SIGNAL`, which by default ends the process, when standard input closes.

    A watching thread would not work, since loading a model holds Python's global interpreter lock the whole time.
    """
    stdin = sys.stdin.fileno()
    fcntl.fcntl(stdin, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(stdin, fcntl.F_SETFL, fcntl.fcntl(stdin, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([stdin], [], [], 0)[0]:  # it was closed before we registered
        signal.raise_signal(SIGNAL)
