"""Builds request bodies from the user's input. Invalid values never reach the server: see `error_messages`."""

from typing import TypeVar

from pydantic import BaseModel

Body = TypeVar("Body", bound=BaseModel)


def request(kind: type[Body], **values: object) -> Body:
    """The body with these values; None uses the server's default. Raises pydantic's ValidationError."""
    return kind.model_validate({name: value for name, value in values.items() if value is not None})
