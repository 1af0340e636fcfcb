"""Names as OCI clients take them: of repositories, tags and digests, and what a token is asked for. Pure."""

import re
from collections.abc import Iterable
from typing import Final

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}/{_PART}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_SCOPE: Final = re.compile(r"repository:(?P<repository>[^:,\s]+):(?P<actions>[a-z*,]+)")
_LONGEST_REPOSITORY: Final = 255
"""Characters, as the distribution specification has it."""
MAX_REPOSITORIES: Final = 8
"""How many one token is for at most."""
LATEST: Final = "latest"
MAIN: Final = "main"
"""Another tag of the same version; lists name only the first."""


def repository_of(owner: str, name: str) -> str | None:
    """The repository of a model; None where the name is one that OCI clients refuse."""
    repository = f"{owner}/{name}".lower()
    is_valid = len(repository) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(repository) is not None
    return repository if is_valid else None


def tag_of(version: str) -> str:
    """A semantic version as a tag, which takes no `+`."""
    return version.replace("+", "_")


def version_of(tag: str) -> str:
    """The other way round: no semantic version has a `_`."""
    return tag.replace("_", "+")


def sha256_of(reference: str) -> str | None:
    """The hexadecimal digits of a digest; None for a tag."""
    found = _DIGEST.fullmatch(reference)
    return found[1] if found else None


def repositories_asked(scopes: Iterable[str]) -> tuple[str, ...]:
    """The repositories that a token is asked for, in lower case; to pull from is all that anybody gets."""
    asked = (_SCOPE.fullmatch(each) for scope in scopes for each in scope.split())
    return tuple(dict.fromkeys(each["repository"].lower() for each in asked if each))[:MAX_REPOSITORIES]
