"""Base classes and types of the wire format: strict requests, tolerant responses, the list envelope."""

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Item = TypeVar("Item")

UnixSeconds = int
"""A point in time (UTC), as in OpenAI's API."""

PAGE_LIMIT_DEFAULT = 50
PAGE_LIMIT_MAX = 200


Seconds = Annotated[int, Field(ge=1, le=100 * 365 * 24 * 3600)]
"""A duration of at most a hundred years."""
SLUG_PATTERN = r"^[a-z0-9](-?[a-z0-9])*$(?!\n)"
"""`$` alone would accept a trailing line break."""
EndpointSlug = Annotated[str, Field(pattern=SLUG_PATTERN, min_length=1, max_length=63)]


class Request(BaseModel):
    """A request body. Unknown fields are errors, so that a misspelled one is never silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), regex_engine="python-re")

    @model_validator(mode="before")
    @classmethod
    def _no_nul(cls, values: Any) -> Any:
        """PostgreSQL cannot store a NUL character in a text."""
        if isinstance(values, dict):
            for name, value in values.items():
                if _holds_nul(value):
                    raise ValueError(f"`{name}` contains a NUL character. Remove it.")
        return values


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    return isinstance(value, list) and any(_holds_nul(item) for item in value)


class Response(BaseModel):
    """A response body. Unknown fields are ignored, so that an old client can read a newer server's responses."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Page(Response, Generic[Item]):
    """One page of a list. Pass `next_cursor` as `after` to get the next page."""

    object: Literal["list"] = "list"
    data: list[Item] = Field(default_factory=list)
    has_more: bool = False
    next_cursor: str | None = None

    @classmethod
    def of(cls, data: list[Item], next_cursor: str | None) -> Self:
        return cls(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)
