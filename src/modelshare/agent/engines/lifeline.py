"""How a program of ours ends with the agent, however that dies: its standard input is the agent's end of a pipe."""

import fcntl
import os
import select
import signal
import sys
from typing import Final

SIGNAL: Final = signal.SIGIO


def attach() -> None:
    """Have the kernel send `SIGNAL`, which ends a process that does not handle it, when standard input closes.

    A thread that watches would not do: loading a model holds the interpreter's lock for as long as it takes.
    """
    stdin = sys.stdin.fileno()
    fcntl.fcntl(stdin, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(stdin, fcntl.F_SETFL, fcntl.fcntl(stdin, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([stdin], [], [], 0)[0]:  # it was closed before we asked
        signal.raise_signal(SIGNAL)
