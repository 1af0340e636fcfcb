"""Whatever option a form names, what was typed into another's field is refused, on every page there is."""

import re
import uuid
from collections.abc import Iterator

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from modelshare.server.api import api
from modelshare.server.web.choices import CHOICES, Choice
from modelshare.server.web.pages import PageRoute
from page_texts import message
from server.web.conftest import Somebody

pytestmark = pytest.mark.anyio


def choices_in(dependant: Dependant) -> Iterator[Choice]:
    for each in dependant.dependencies:
        owner = getattr(each.call, "__self__", None)
        if isinstance(owner, Choice):
            yield owner
        yield from choices_in(each)


def forms(project: str) -> Iterator[tuple[str, Choice]]:
    """Where a form with a choice is sent; what is named in its path is not there."""
    for context in iter_route_contexts(api().routes):
        route = context.original_route
        if isinstance(route, PageRoute) and "POST" in (context.methods or ()):
            path = re.sub(r"{\w+}", str(uuid.UUID(int=1)), (context.path or "").replace("{project}", project))
            yield from ((path, choice) for choice in choices_in(route.dependant))


def contradictions(choice: Choice) -> Iterator[dict[str, str]]:
    """Every option beside every field of every other one."""
    for chosen in choice.options:
        for other in choice.options:
            for field in other.fields if other is not chosen else ():
                yield {choice.name: chosen.value, field.name: "typed"}


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}], ids=["without scripts", "with scripts"])
async def test_no_form_drops_what_was_typed(colleague: Somebody, project: str, headers: dict[str, str]) -> None:
    tried = set()
    for path, choice in forms(project):
        for typed in contradictions(choice):
            answer = await colleague.http.post(path, data=typed, headers=headers)
            assert answer.status_code == 400, (path, typed, answer.text)
            assert "belongs to" in message(answer), (path, typed)
        tried.add(choice.name)
    assert tried == {choice.name for choice in CHOICES}


async def test_a_refused_form_comes_back_as_it_was_typed(colleague: Somebody, project: str) -> None:
    typed = {"name": "edge <1>", "reach": "endpoint", "endpoint": "chat", "scopes": ["models", "keys"]}
    answer = await colleague.http.post(f"/dashboard/{project}/keys/new", data={**typed, "allowed_ips": "10.0.0.1"})
    assert answer.status_code == 400
    assert "“Scopes” belongs to “Only selected scopes”" in message(answer)
    assert 'value="edge &lt;1&gt;"' in answer.text
    assert re.search(r'value="endpoint" required checked', answer.text)
    assert re.findall(r'name="scopes" value="(\w+)"[^>]* checked', answer.text) == ["models", "keys"]
    assert re.search(r"<textarea[^>]*>\s*10\.0\.0\.1</textarea>", answer.text)
    assert "No keys yet" in (await colleague.get(f"/dashboard/{project}/keys")).text


async def test_a_password_never_comes_back(browser: Somebody, person: Somebody) -> None:
    form = {"name": "Eve", "email": "nobody", "password": "a quiet walk home"}
    answer = await person.http.post("/sign-up", data=form)
    assert answer.status_code == 400
    assert 'value="nobody"' in answer.text
    assert "a quiet walk" not in answer.text
