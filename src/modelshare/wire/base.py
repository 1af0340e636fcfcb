"""What every wire type shares: strict requests, tolerant responses, the list envelope."""

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Item = TypeVar("Item")

UnixSeconds = int
"""A point in time, UTC, as OpenAI's API gives it."""

PAGE_LIMIT_DEFAULT = 50
PAGE_LIMIT_MAX = 200


Seconds = Annotated[int, Field(ge=1, le=100 * 365 * 24 * 3600)]
"""A span of time, at most a hundred years."""
SLUG_PATTERN = r"^[a-z0-9](-?[a-z0-9])*$(?!\n)"
"""`$` alone would let a line break at the end pass."""
EndpointSlug = Annotated[str, Field(pattern=SLUG_PATTERN, min_length=1, max_length=63)]


class Request(BaseModel):
    """A body that a client sends: an unknown field is an error, so that a typing slip is never silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), regex_engine="python-re")

    @model_validator(mode="before")
    @classmethod
    def _no_nul(cls, values: Any) -> Any:
        """PostgreSQL stores no NUL character in a text, and nobody means one."""
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
    """A body that the server sends: unknown fields pass, so that an old client reads a newer server."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Page(Response, Generic[Item]):
    """One page of a list; `next_cursor` goes into `after` for the next one."""

    object: Literal["list"] = "list"
    data: list[Item] = Field(default_factory=list)
    has_more: bool = False
    next_cursor: str | None = None

    @classmethod
    def of(cls, data: list[Item], next_cursor: str | None) -> Self:
        return cls(data=data, has_more=next_cursor is not None, next_cursor=next_cursor)
