"""Runs another program and stops it when the agent dies: `python -m modelshare.agent.engines.launch -- CMD…`.

For third-party engines, which would otherwise keep running. When the agent dies, the whole process group, which was
created for this engine, is killed. Exits with the program's exit code.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from modelshare.agent.engines import lifeline
from modelshare.agent.engines.diagnosis import NOT_STARTED


def wrapped(command: Sequence[str]) -> tuple[str, ...]:
    """The command that runs `command` under this launcher."""
    return (sys.executable, "-P", "-m", "modelshare.agent.engines.launch", "--", *command)


def main(command: Sequence[str]) -> int:
    signal.signal(lifeline.SIGNAL, lambda *_: os.killpg(os.getpgrp(), signal.SIGKILL))
    # SIGTERM is sent to the whole group, so the program receives it as well, and its exit ends us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    lifeline.attach()
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  the agent's own recipe
    except OSError as error:
        print(f"{command[0]} {NOT_STARTED}: {error.strerror}", flush=True)  # noqa: T201  the agent reads it
        return 127
    returncode = program.wait()
    return 128 - returncode if returncode < 0 else returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[sys.argv.index("--") + 1 :]))
