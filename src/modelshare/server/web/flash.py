"""A message that the next page shows: in a cookie that is signed, so that nobody else puts words there."""

from fastapi import Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer

from modelshare.server.http import base_url, get_platform

_COOKIE = "modelshare_message"
_SECONDS = 60


def write(request: Request, response: Response, message: str) -> None:
    secure = base_url(request).startswith("https:")
    response.set_cookie(
        _COOKIE, _serializer(request).dumps(message), _SECONDS, httponly=True, samesite="lax", secure=secure
    )


def read(request: Request) -> str | None:
    value = request.cookies.get(_COOKIE)
    try:
        return str(_serializer(request).loads(value, max_age=_SECONDS)) if value else None
    except BadData:
        return None


def clear(response: Response) -> None:
    response.delete_cookie(_COOKIE)


def _serializer(request: Request) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(get_platform(request).settings.signing_secret(), salt="page message")
