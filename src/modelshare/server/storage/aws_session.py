"""Sessions of boto3 that share the descriptions of AWS's services: each would read megabytes of JSON for itself."""

from typing import Any, Final

import botocore.session
from boto3.session import Session
from botocore.loaders import Loader


class _SharedLoader(Loader):  # type: ignore[misc] # botocore has no types
    """Keeps what it has read. Safe in threads, since two that read the same at once only do it twice."""

    @property
    def search_paths(self) -> list[str]:
        """A copy: every session of boto3 adds its own descriptions, which no client needs."""
        return list(self._search_paths)


_LOADER: Final = _SharedLoader()


def open_session(*, credentials: Any = None, **arguments: str | None) -> Session:
    """`credentials`: of botocore, instead of keys. `arguments`: those of boto3's session."""
    own = botocore.session.get_session()
    own.register_component("data_loader", _LOADER)
    if credentials is not None:
        own._credentials = credentials  # noqa: SLF001 - as botocore's own providers do
    return Session(botocore_session=own, **arguments)
