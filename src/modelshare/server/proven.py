"""Who a request comes from, as far as limits on connections care: somebody known, or a stranger."""

from collections.abc import MutableMapping
from typing import Any, Final

PROVEN: Final = "modelshare.proven"
"""The key in a request's scope under which the HTTP server leaves what it wants to have called."""


def proven(scope: MutableMapping[str, Any]) -> None:
    """Tells the HTTP server that the request came with a key, a session, a token or a signature that holds.

    Its connection then does not count against its address.
    """
    tell = scope.get(PROVEN)
    if tell is not None:  # other servers do not ask
        tell()
