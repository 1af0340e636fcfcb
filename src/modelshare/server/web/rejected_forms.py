"""Shows a rejected form again, with the user's input and the error.

For browsers without scripts; with scripts, the error is shown in the current page, which keeps the input.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Message

_KEY: Final = "refused_form"
_FOUND: Final = 200


@dataclass(frozen=True, slots=True)
class RefusedForm:
    action: str
    """The URL to which it was sent."""
    message: str
    typed: Mapping[str, Sequence[str]]


_current: ContextVar[RefusedForm | None] = ContextVar("refused_form", default=None)


async def page_of_form(request: Request, message: str, status: int) -> Response | None:
    """The page of the form in this request, if it has the same URL as the form's action; None otherwise."""
    typed = await _typed(request)
    if typed is None:
        return None
    messages: list[Message] = []
    scope = {
        **request.scope,
        "method": "GET",
        "state": {},
        "path_params": {},
        _KEY: RefusedForm(request.url.path, message, typed),
    }

    async def nothing() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message: Message) -> None:
        messages.append(message)

    try:
        await request.app.router(scope, nothing, keep)
    except HTTPException:  # the route only accepts forms
        return None
    if not messages or messages[0]["status"] != _FOUND:
        return None
    page = Response(b"".join(message.get("body", b"") for message in messages[1:]), status)
    page.raw_headers = messages[0]["headers"]
    return page


@contextmanager
def shown_in(request: Request) -> Iterator[None]:
    """Makes the rejected form available to templates within the block."""
    token = _current.set(request.scope.get(_KEY))
    try:
        yield
    finally:
        _current.reset(token)


def refusal(action: str) -> str | None:
    """For templates: the error of the form with this action."""
    form = _current.get()
    return form.message if form and form.action == action else None


def typed(name: str, otherwise: Any) -> Any:
    """For templates: the input in the field, or its default value."""
    form = _current.get()
    return next(iter(form.typed.get(name, ())), "") if form else otherwise


def ticked(name: str, value: str, otherwise: bool) -> bool:
    """For templates: whether this one of several values was selected."""
    form = _current.get()
    return value in form.typed.get(name, ()) if form else otherwise


async def _typed(request: Request) -> dict[str, list[str]] | None:
    try:
        form = await request.form()
    except (HTTPException, RuntimeError):  # not a form, or not read completely
        return None
    names = {name: form.getlist(name) for name in form}
    return {name: [value for value in values if isinstance(value, str)] for name, values in names.items()}
