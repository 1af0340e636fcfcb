"""Sessions of boto3 that cost less.

They share the descriptions of AWS's services, each of which would read megabytes of JSON for itself, and read times
without dateutil, which took most of the time for a list of parts.
"""

from datetime import datetime
from typing import Any, Final

import botocore.session
from boto3.session import Session
from botocore.loaders import Loader
from botocore.utils import parse_timestamp


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
    own.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    if credentials is not None:
        own._credentials = credentials  # noqa: SLF001 - as botocore's own providers do
    return Session(botocore_session=own, **arguments)


def parse_time(value: Any) -> datetime:
    """Reads the form of XML answers itself and leaves others to botocore. Raises ValueError."""
    try:
        if "T" in value and (time := datetime.fromisoformat(value)).tzinfo is not None:
            return time
    except (TypeError, ValueError):
        pass
    other: datetime = parse_timestamp(value)
    return other
