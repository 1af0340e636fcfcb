"""A form that was refused comes back as it was: its page anew, with what was typed and why it was refused.

For browsers without scripts; with them, a refusal shows in the page that is there, and nothing typed was ever gone.
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
    """Where it was sent."""
    message: str
    typed: Mapping[str, Sequence[str]]


_current: ContextVar[RefusedForm | None] = ContextVar("refused_form", default=None)


async def page_of_form(request: Request, message: str, status: int) -> Response | None:
    """The page of the form that this request sent, where the page has the form's own address; None elsewhere."""
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
    except HTTPException:  # what only takes forms
        return None
    if not messages or messages[0]["status"] != _FOUND:
        return None
    page = Response(b"".join(message.get("body", b"") for message in messages[1:]), status)
    page.raw_headers = messages[0]["headers"]
    return page


@contextmanager
def shown_in(request: Request) -> Iterator[None]:
    """While the page is rendered, its templates know of the refused form."""
    token = _current.set(request.scope.get(_KEY))
    try:
        yield
    finally:
        _current.reset(token)


def refusal(action: str) -> str | None:
    """For templates: why what was sent there was refused."""
    form = _current.get()
    return form.message if form and form.action == action else None


def typed(name: str, otherwise: Any) -> Any:
    """For templates: what was typed into the field, or what it holds otherwise."""
    form = _current.get()
    return next(iter(form.typed.get(name, ())), "") if form else otherwise


def ticked(name: str, value: str, otherwise: bool) -> bool:
    """For templates: whether this one of several values was chosen."""
    form = _current.get()
    return value in form.typed.get(name, ()) if form else otherwise


async def _typed(request: Request) -> dict[str, list[str]] | None:
    try:
        form = await request.form()
    except (HTTPException, RuntimeError):  # what came is no form, or was not read to its end
        return None
    names = {name: form.getlist(name) for name in form}
    return {name: [value for value in values if isinstance(value, str)] for name, values in names.items()}
