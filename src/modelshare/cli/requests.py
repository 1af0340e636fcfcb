"""Requests made of what a person typed; a value that cannot be right is wrong usage, without asking the server."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from modelshare.cli.exits import ExitCode
from modelshare.cli.failures import CommandError
from modelshare.wire.endpoints import EndpointCreate

Body = TypeVar("Body", bound=BaseModel)


def request(kind: type[Body], **values: object) -> Body:
    """The body with these values; None leaves one to the server's default. Raises CommandError."""
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field, given = first["loc"][0], first["input"]
        raise CommandError(f"{given!r} does not fit `{field}`: {first['msg']}.", ExitCode.USAGE) from error


def endpoint_request(model_id: str, tier: str, slug: str, version: str) -> EndpointCreate:
    return request(EndpointCreate, model=model_id, tier=tier, slug=slug, version=version)
