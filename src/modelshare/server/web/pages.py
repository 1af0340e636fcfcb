"""The basis of all pages: templates, security headers, messages and error pages.

Pages work without scripts. If htmx sends a form, only a part of the page is replaced; `redirect_after_form` and
`show_once` support both.
"""

import functools
import gzip
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from itsdangerous import BadData, URLSafeTimedSerializer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ValidationError
from starlette.responses import HTMLResponse, RedirectResponse
from structlog.contextvars import get_contextvars

from modelshare.server.errors import ApiError, answer_with_pages, refusal_of
from modelshare.server.http import Caller, base_url, check_same_origin, get_platform
from modelshare.server.web import identicons, markdown, number_format, plots, rejected_forms, static_files
from modelshare.server.web.messages import humanize_error
from modelshare.server.web.page_auth import ANONYMOUS, SignInNeededError, Visitor, sign_in_url, visitor_of
from modelshare.wire.keys import Project, Scope
from modelshare.wire.text import readable

_SECURITY: Final = {
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'{connect}; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_COMPRESSED_FROM: Final = 1024
"""Bytes."""
_LEVEL: Final = 5
_MESSAGE_COOKIE: Final = "modelshare_message"
_MESSAGE_SECONDS: Final = 60
_MENDED_IN_THE_FORM: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT})


Form = TypeVar("Form", bound=BaseModel)


class PageRoute(APIRoute):
    """A route of a page: identifies the visitor, accepts forms only from this site, and renders errors as pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def page(request: Request) -> Response:
            answer_with_pages(request)
            request.state.visitor = ANONYMOUS  # for errors before the visitor is known
            check_same_origin(request, get_platform(request).settings)
            request.state.visitor = await visitor_of(request)
            return await handle(request)

        return page


def render(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """Renders a page with the common context. Compressed only for visitors who are not signed in (BREACH)."""
    visitor: Visitor = getattr(request.state, "visitor", ANONYMOUS)
    message = _message_for(request)
    values = {
        "request": request,
        "path": request.url.path,
        "visitor": visitor,
        "now": get_platform(request).now(),
        "flash": message,
        **_of_project(request),
        **context,
    }
    with rejected_forms.shown_in(request):
        html = _environment().get_template(template).render(values)
    response: Response = HTMLResponse(html, status)
    if visitor.person is None:
        response = _compressed(request, response)
    secure(request, response)
    if message is not None:
        response.delete_cookie(_MESSAGE_COOKIE)
    return response


def fragment(template: str, **context: Any) -> str:
    """Renders a part of a page, for live updates."""
    return _environment().get_template(template).render(**context)


def secure(request: Request, response: Response) -> None:
    """Adds the security headers of a page, and prevents caching."""
    origins = "".join(f" {origin}" for origin in getattr(request.state, "connect_to", ()))
    response.headers.update(_SECURITY)
    response.headers["Content-Security-Policy"] = _POLICY.format(connect=origins)
    visitor: Visitor = getattr(request.state, "visitor", ANONYMOUS)
    response.headers["Cache-Control"] = "no-store" if visitor.person or request.method != "GET" else "no-cache"
    response.headers["Vary"] = "Cookie, HX-Request, Accept-Encoding"


def is_htmx(request: Request) -> bool:
    """Whether htmx sent the request, to replace a part of the page."""
    return request.headers.get("hx-request") == "true"


def parse_form(kind: type[Form], /, **values: Any) -> Form:
    """Parses a form's values as an API type; empty fields count as missing. 400 if they are invalid."""
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    try:
        return kind(**given)
    except ValidationError as error:
        raise refusal_of(error.errors()[0]) from error


def redirect_after_form(request: Request, url: str, message: str | None = None) -> Response:
    """Redirects to `url` after a successful form; the next page shows `message`."""
    response: Response = RedirectResponse(url, 303)
    if is_htmx(request):
        response = Response(headers={"HX-Redirect": response.headers["location"]})
    if message is not None:
        secure = base_url(request).startswith("https:")
        signed = _signer(request).dumps(message)
        response.set_cookie(_MESSAGE_COOKIE, signed, _MESSAGE_SECONDS, httponly=True, samesite="lax", secure=secure)
    return response


def show_once(request: Request, template: str, **context: Any) -> Response:
    """Renders what is shown only once, such as a key's value: in the page's `#once` for htmx, else as a page."""
    response = render(request, template, in_page=is_htmx(request), **context)
    if is_htmx(request):
        response.headers.update({"HX-Retarget": "#once", "HX-Reswap": "innerHTML show:#once:top"})
    return response


async def error_page(request: Request, error: ApiError) -> Response:
    """For `errors.install_handlers`."""
    if not hasattr(request.state, "visitor"):  # not the path of a page: the visitor is not known yet
        request.state.visitor = ANONYMOUS
        request.state.visitor = await visitor_of(request)
    if isinstance(error, SignInNeededError):
        return redirect_after_form(request, sign_in_url(request))
    template = "parts/error.html" if is_htmx(request) else "error.html"
    request_id = get_contextvars().get("request_id") if error.status == HTTPStatus.INTERNAL_SERVER_ERROR else None
    message = humanize_error(error.message)
    if error.status in _MENDED_IN_THE_FORM and request.method == "POST" and not is_htmx(request):
        form = await rejected_forms.page_of_form(request, message, error.status)
        if form is not None:
            return form
    response = render(request, template, error.status, error=error, message=message, request_id=request_id)
    response.headers.update(error.headers())
    return response


def _message_for(request: Request) -> str | None:
    """The message from `redirect_after_form` for this page."""
    value = request.cookies.get(_MESSAGE_COOKIE)
    try:
        return str(_signer(request).loads(value, max_age=_MESSAGE_SECONDS)) if value else None
    except BadData:
        return None


def _signer(request: Request) -> URLSafeTimedSerializer:
    """Signs messages, so that others cannot show texts on a page."""
    return URLSafeTimedSerializer(get_platform(request).settings.signing_secret(), salt="page message")


def _of_project(request: Request) -> dict[str, Any]:
    """The context of a project's pages: their root, and whether the person is an owner."""
    project: Project | None = getattr(request.state, "project", None)
    if project is None:
        return {}
    caller: Caller = request.state.caller
    return {"project": project, "root": f"/dashboard/{project.slug}", "owner": caller.allows(Scope.KEYS)}


def _compressed(request: Request, response: Response) -> Response:
    if len(response.body) < _COMPRESSED_FROM or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    body = gzip.compress(bytes(response.body), _LEVEL, mtime=0)
    return Response(body, response.status_code, {"Content-Encoding": "gzip"}, media_type="text/html; charset=utf-8")


def _readable(value: Any) -> Any:
    """Removes characters that older releases accepted in names and that make a name look like another one."""
    return readable(value) if type(value) is str else value


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        static=static_files.url,
        mark=identicons.mark,
        plots=plots,
        refusal=rejected_forms.refusal,
        typed=rejected_forms.typed,
        ticked=rejected_forms.ticked,
    )
    environment.filters.update(
        size=number_format.size,
        short=number_format.short,
        whole=number_format.whole,
        cost=number_format.cost,
        parameters=number_format.parameters,
        context=number_format.context,
        date=number_format.date,
        iso=number_format.iso,
        ago=number_format.ago,
        plural=number_format.plural,
        card=markdown.card,
        coded=markdown.coded,
    )
    return environment
