"""Every form with options is read by a `Choice`, so that none drops what was typed beside another option."""

import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from fastapi import Form
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

import modelshare
from modelshare.server.accounts.rules import MemberRole
from modelshare.server.api import api
from modelshare.server.web.choices import CHOICES
from modelshare.server.web.pages import PageRoute

TEMPLATES = Path(modelshare.__file__).parent / "server" / "web" / "templates"
MACROS = TEMPLATES / "parts" / "macros.html"


def forms() -> Iterator[tuple[str, Dependant]]:
    """Of pages: where each is sent, and what its route takes."""
    for context in iter_route_contexts(api().routes):
        route = context.original_route
        if isinstance(route, PageRoute) and "POST" in (context.methods or ()):
            yield context.path or "", route.dependant


def choices_of(dependant: Dependant) -> set[str]:
    found = {call.name for each in dependant.dependencies if (call := getattr(each.call, "__self__", None)) in CHOICES}
    return found.union(*map(choices_of, dependant.dependencies))


def is_closed(kind: Any) -> bool:
    """Whether it has a few values, as options do."""
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def undecided(dependant: Dependant) -> bool:
    """Whether a field with options stands beside fields that may be left out: those could be of one option only."""
    fields = [field.field_info for field in dependant.body_params]
    closed = [field for field in fields if any(map(is_closed, (field.annotation, *get_args(field.annotation))))]
    return bool(closed) and any(not field.is_required() for field in fields if field not in closed)


def test_a_route_that_takes_options_takes_them_by_a_choice() -> None:
    assert [path for path, dependant in forms() if undecided(dependant)] == []


def test_options_are_drawn_by_the_one_macro() -> None:
    by_hand = [
        str(path.relative_to(TEMPLATES))
        for path in TEMPLATES.rglob("*.html")
        if path != MACROS and re.search(r"""type=["']?radio""", path.read_text(encoding="utf-8"))
    ]
    assert by_hand == []


def test_every_choice_is_read_by_a_form() -> None:
    read = {name for _, dependant in forms() for name in choices_of(dependant)}
    assert read == {choice.name for choice in CHOICES}
    assert {"audience", "when"} <= read


def test_no_choice_shows_something_to_everybody_unless_told() -> None:
    assert [each.name for each in CHOICES if each.otherwise == "public"] == []


def test_the_rule_finds_a_form_that_goes_without() -> None:
    async def share(
        audience: Annotated[Literal["public", "projects"], Form()], projects: Annotated[str, Form()] = ""
    ) -> None: ...

    async def change_role(role: Annotated[MemberRole, Form()]) -> None: ...

    assert undecided(APIRoute("/x", share, methods=["POST"]).dependant)
    assert not undecided(APIRoute("/x", change_role, methods=["POST"]).dependant)
