"""Request bodies from what the user typed. Invalid values never reach the server: see `failures`."""

from typing import TypeVar

from pydantic import BaseModel

Body = TypeVar("Body", bound=BaseModel)


def request(kind: type[Body], **values: object) -> Body:
    """The body with these values; None leaves one to the server's default. Raises pydantic's ValidationError."""
    return kind.model_validate({name: value for name, value in values.items() if value is not None})
