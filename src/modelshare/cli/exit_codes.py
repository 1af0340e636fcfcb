"""Exit codes, as documented in `modelshare --help`."""

from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    """Refused by the server, or failed."""
    USAGE = 2
    """Invalid options, arguments or settings."""
    UNREACHABLE = 3
    """The platform is unreachable or rejects the key."""
    INTERRUPTED = 130
    """Ctrl-C: 128 plus the number of SIGINT, as in shells."""
