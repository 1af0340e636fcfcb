"""Tells the HTTP server which connections are authenticated, since others are limited per address."""

from collections.abc import MutableMapping
from typing import Any, Final

PROVEN: Final = "modelshare.proven"
"""Key of the callback in a request's scope."""


def proven(scope: MutableMapping[str, Any]) -> None:
    """Tells the HTTP server that the request has a valid key, session, token or signature.

    Its connection then no longer counts against the limit of its address.
    """
    tell = scope.get(PROVEN)
    if tell is not None:  # other HTTP servers have none
        tell()
