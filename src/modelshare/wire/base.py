"""What every wire type shares: strict requests, tolerant responses, the list envelope."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")

UnixSeconds = int
"""A point in time, UTC, as OpenAI's API gives it."""

PAGE_LIMIT_DEFAULT = 50
PAGE_LIMIT_MAX = 200


class Request(BaseModel):
    """A body that a client sends: an unknown field is an error, so that a typing slip is never silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), regex_engine="python-re")


class Response(BaseModel):
    """A body that the server sends: unknown fields pass, so that an old client reads a newer server."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Page(Response, Generic[Item]):
    """One page of a list; `next_cursor` goes into `after` for the next one."""

    object: Literal["list"] = "list"
    data: list[Item] = Field(default_factory=list)
    has_more: bool = False
    next_cursor: str | None = None
