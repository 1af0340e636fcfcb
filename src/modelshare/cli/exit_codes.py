"""Exit codes, as `modelshare --help` lists them."""

from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    """The server refused it, or it did not work."""
    USAGE = 2
    """Wrong options, arguments or settings."""
    UNREACHABLE = 3
    """The platform cannot be reached, or does not accept the key."""
    INTERRUPTED = 130
    """Ctrl-C: 128 and the number of SIGINT, as shells have it."""
