"""Names of repositories, tags and digests, and scopes of tokens. Pure."""

import re
from collections.abc import Iterable
from typing import Final

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_PART}/{_PART}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_SCOPE: Final = re.compile(r"repository:(?P<repository>[^:,\s]+):(?P<actions>[a-z*,]+)")
_LONGEST_REPOSITORY: Final = 255
"""Characters; the limit of the distribution specification."""
MAX_REPOSITORIES: Final = 8
"""Maximum repositories per token."""
LATEST: Final = "latest"
MAIN: Final = "main"
"""Another tag of the latest version, which is not listed."""


def repository_of(owner: str, name: str) -> str | None:
    """The repository of a model; None if OCI clients would reject the name."""
    repository = f"{owner}/{name}".lower()
    is_valid = len(repository) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(repository) is not None
    return repository if is_valid else None


def tag_of(version: str) -> str:
    """The tag of a semantic version: tags must not contain `+`."""
    return version.replace("+", "_")


def version_of(tag: str) -> str:
    """The inverse of `tag_of`: semantic versions never contain `_`."""
    return tag.replace("_", "+")


def sha256_of(reference: str) -> str | None:
    """The hexadecimal digits of a digest; None for a tag."""
    found = _DIGEST.fullmatch(reference)
    return found[1] if found else None


def repositories_asked(scopes: Iterable[str]) -> tuple[str, ...]:
    """The requested repositories in lower case. Tokens only allow pulling, whatever the actions."""
    asked = (_SCOPE.fullmatch(each) for scope in scopes for each in scope.split())
    return tuple(dict.fromkeys(each["repository"].lower() for each in asked if each))[:MAX_REPOSITORIES]
