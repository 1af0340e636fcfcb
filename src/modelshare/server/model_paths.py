"""Accepts `owner/name` in place of a model's id in a path, as two segments or as one with `%2F`. Pure.

Routes have one segment for a model, so both forms are joined to one, with `SLASH` between owner and name.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import unquote

SLASH: Final = "%2F"
_MODEL: Final = "{model_id}"
_PREFIX: Final = re.compile(r"/v1/(?:models|catalog/models|platform/catalog)/(?=.)")


def below_models(routes: Iterable[str]) -> frozenset[str]:
    """Segments that may follow a model in a path, such as `versions`, and therefore cannot be a model's name."""
    below = (path.partition(f"{_MODEL}/")[2] for path in routes if path.startswith("/v1/"))
    return frozenset(each.split("/", 1)[0] for each in below if each)


def joined(path: str, raw_path: bytes, below: Collection[str]) -> str:
    """The path with a model's `owner/name` as one segment. `raw_path`: the path as the client sent it."""
    prefix = _PREFIX.match(path)
    if prefix is None:
        return path
    before, rest = prefix[0], path[prefix.end() :]
    written = raw_path.decode("latin-1")
    if unquote(written) == path and written.startswith(before):
        first = written[len(before) :].split("/", 1)[0]
        owner, slash, name = unquote(first).partition("/")
        if slash:
            return f"{before}{owner}{SLASH}{name}{rest[len(owner) + 1 + len(name) :]}"
    owner, _, after = rest.partition("/")
    name, slash, after = after.partition("/")
    if not owner or not name or name in below:
        return path
    return f"{before}{owner}{SLASH}{name}{slash}{after}"
