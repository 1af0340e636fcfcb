"""Waits until the platform has finished something, by asking for it."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from modelshare.client.errors import ConnectError, ServerError

FIRST_POLL: Final = 0.1
LONGEST_POLL: Final = 2.0
"""Seconds between two requests, which grow from the first value to the second."""
PATIENCE: Final = 120.0
"""Seconds for which the platform may be unreachable, such as while it is restarted."""

_Found = TypeVar("_Found")


def poll(ask: Callable[[], _Found], is_done: Callable[[_Found], bool]) -> _Found:
    """Asks less and less often until `is_done`. Raises what either raises, but ConnectError and ServerError of `ask`
    only after `PATIENCE`."""
    interval, reachable_at = FIRST_POLL, time.monotonic()
    while True:
        try:
            found = ask()
        except (ConnectError, ServerError):
            if time.monotonic() - reachable_at > PATIENCE:
                raise
        else:
            reachable_at = time.monotonic()
            if is_done(found):
                return found
        time.sleep(interval)
        interval = min(interval * 1.5, LONGEST_POLL)
