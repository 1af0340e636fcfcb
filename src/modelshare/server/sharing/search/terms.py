"""Represents catalog entries as sets of terms, and queries as conditions on them. Pure, and equal for both databases.

A term is a word; or an underscore, a letter for its kind and a value, for filters; or two underscores and an audience.
So one index answers all combinations, and a condition means the same wherever it is checked. Words contain no
underscores, so that users cannot create terms for an audience.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelshare.server.sharing.search.ranges import CONTEXT, PARAMETERS, Range, Scale
from modelshare.server.sharing.search.tokenizer import asked, words
from modelshare.wire.sharing import Audience

_PUBLIC = "__public"
"""The term of public entries."""
_TARGETED = "__targeted"
"""The term of entries for certain projects."""
LEVELS = tuple(digit * 10**power for power in range(7) for digit in (1, 2, 5))
"""Numbers of deployments that have a term; an entry has the terms of all levels that it reaches."""
LONGEST_PREFIX = 12
"""Characters."""
_LETTERS = {"family": "f", "license": "l", "architecture": "a", "format": "o", "role": "r", "tag": "t"}
"""The letter for each kind of value."""


class Sort(StrEnum):
    RELEVANCE = "relevance"
    RECENT = "recent"
    DEPLOYMENTS = "deployments"
    PARAMETERS = "parameters"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who searches. Others see nothing of a model shared with certain projects, in any list, search or count."""

    project_id: str | None = None
    """None: not authenticated."""
    sees_all: bool = False


ANYBODY = Viewer()


@dataclass(frozen=True, slots=True)
class Filters:
    """What a model must have to be listed; None: anything."""

    q: str | None = None
    family: str | None = None
    tag: str | None = None
    license: str | None = None
    architecture: str | None = None
    format: str | None = None
    role: str | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    min_context: int | None = None
    max_context: int | None = None

    @property
    def parameters(self) -> Range:
        return Range(self.min_parameters, self.max_parameters)

    @property
    def context(self) -> Range:
        return Range(self.min_context, self.max_context)


@dataclass(frozen=True, slots=True)
class CatalogFacts:
    """The properties by which a shared model can be found."""

    project_id: str
    owner: str
    audience: str
    shown_to: Sequence[str]
    """Ids of the projects of a targeted share."""
    role: str
    name: str
    display_name: str | None
    description: str | None
    tags: Sequence[str]
    license: str | None
    format: str | None
    architecture: str | None
    family: str | None
    parameters: int
    """0: unknown; also for `context_length`."""
    context_length: int
    deployment_count: int = 0


@dataclass(frozen=True, slots=True)
class Term:
    """A term that an entry may have."""

    text: str


Condition = tuple[Term, ...]
"""Met by an entry with at least one of these terms."""
IS_PUBLIC: Condition = (Term(_PUBLIC),)
IS_TARGETED: Condition = (Term(_TARGETED),)
"""Every entry that can be found is either public or targeted."""


def terms_of(facts: CatalogFacts) -> list[str]:
    """All terms of an entry."""
    called = (facts.name, facts.display_name, facts.owner, facts.family, facts.architecture, *facts.tags)
    names = " ".join(part for part in called if part)
    found = words(f"{names} {facts.description or ''}")
    begun = (word[:length] for word in words(names) for length in range(1, LONGEST_PREFIX + 1))
    whole = (word for word in found if len(word) <= LONGEST_PREFIX)
    found += [_begins(prefix) for prefix in dict.fromkeys((*begun, *whole))]
    for kind in ("family", "license", "architecture", "format", "role"):
        value = getattr(facts, kind)
        if value is not None:
            found.append(_value_term(kind, value))
    found += dict.fromkeys(_value_term("tag", tag) for tag in facts.tags)
    found += PARAMETERS.terms(facts.parameters) + CONTEXT.terms(facts.context_length)
    found += [deployed(level).text for level in LEVELS if facts.deployment_count >= level]
    return [*found, *_audience(facts)]


def deployed(level: int) -> Term:
    """The term of entries with at least `level` deployments, which must be one of `LEVELS`."""
    return Term(f"_d{level}")


def words_in(written: str) -> list[str]:
    """The words among the terms of an entry."""
    return [term for term in written.split() if not term.startswith("_")]


def is_public(written: str) -> bool:
    """Whether the entry with these terms is public."""
    return f" {_PUBLIC} " in written


def conditions(viewer: Viewer, filters: Filters) -> list[Condition] | None:
    """The conditions that an entry must meet, all of them; None if none can."""
    found = seen_by(viewer)
    for kind in _LETTERS:
        value = getattr(filters, kind)
        if value is not None:
            found.append((Term(_value_term(kind, value)),))
    for scale, wanted in _ranges(filters):
        covering = scale.covering(wanted)
        if not covering:
            return None
        found.append(tuple(map(Term, covering)))
    if filters.q is None or not filters.q.strip():
        return found
    query = asked(filters.q)
    return [*found, *((_word(word),) for word in query)] if query else None


def seen_by(viewer: Viewer) -> list[Condition]:
    """`rules.is_visible` as conditions, for models in the catalog."""
    if viewer.sees_all:
        return [IS_PUBLIC + IS_TARGETED]
    if viewer.project_id is None:
        return [IS_PUBLIC]
    return [(Term(_PUBLIC), Term(_project_term(viewer.project_id)))]


def _word(word: str) -> Term:
    """Matches models with the word in their name or description, or with a word in their name that begins with it."""
    return Term(_begins(word) if len(word) <= LONGEST_PREFIX else word)


def _begins(prefix: str) -> str:
    """A separate term for a prefix, since looking up all words with it is slow if there are many."""
    return f"_p{prefix}"


def _ranges(filters: Filters) -> Iterator[tuple[Scale, Range]]:
    for scale, wanted in ((PARAMETERS, filters.parameters), (CONTEXT, filters.context)):
        if not wanted.is_everything:
            yield scale, wanted


def _audience(facts: CatalogFacts) -> list[str]:
    if facts.audience == Audience.PUBLIC:
        return [_PUBLIC]
    return [_TARGETED, *dict.fromkeys(map(_project_term, (facts.project_id, *facts.shown_to)))]


def _project_term(project_id: str) -> str:
    """Contains the ID itself, since a hash, which may collide, must not decide about access."""
    return f"__{project_id}"


def _value_term(kind: str, value: str) -> str:
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"_{_LETTERS[kind]}{digest}"
