"""Machinery that lets one resource class serve both clients.

A method of a resource only builds a `Call`: what to send and how to parse the response. The decorator `sent` turns it
into a method that sends the call, `listed` into one that iterates over all pages. On `Client` they return values, on
`AsyncClient` awaitables and async iterators. The overloads of `__get__` select by the resource's transport, so that
type checkers see the right types.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload
from urllib.parse import quote

from pydantic import BaseModel

Params = ParamSpec("Params")
Answer = TypeVar("Answer")
Item = TypeVar("Item")
Answer_co = TypeVar("Answer_co", covariant=True)
Item_co = TypeVar("Item_co", covariant=True)
Shape = TypeVar("Shape", bound=BaseModel)

QueryValue = str | int | None


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer_co]):
    """One request, and how to parse its response."""

    method: str
    path: str
    parse: Callable[[bytes], Answer_co]
    query: Mapping[str, QueryValue] = field(default_factory=dict)
    """Parameters with the value None are omitted."""
    body: BaseModel | None = None
    repeatable: bool = False
    """Idempotent: it may be sent again if the response was lost."""
    raw: bytes | None = None
    """A body that is not JSON."""

    def params(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.query.items() if value is not None}

    def content(self) -> bytes | None:
        """The body as JSON. Fields that the caller did not set are omitted, so that the server's defaults apply."""
        return self.raw if self.body is None else self.body.model_dump_json(exclude_unset=True).encode()


def get(path: str, answer: type[Shape], **query: QueryValue) -> Call[Shape]:
    return Call("GET", path, answer.model_validate_json, query, repeatable=True)


def post(
    path: str, answer: type[Shape], body: BaseModel | None = None, *, repeatable: bool = False, **query: QueryValue
) -> Call[Shape]:
    return Call("POST", path, answer.model_validate_json, query, body, repeatable)


def patch(path: str, answer: type[Shape], body: BaseModel) -> Call[Shape]:
    return Call("PATCH", path, answer.model_validate_json, body=body)


def put(path: str, answer: type[Shape], body: BaseModel) -> Call[Shape]:
    return Call("PUT", path, answer.model_validate_json, body=body)


def delete(path: str) -> Call[None]:
    return Call("DELETE", path, _nothing)


def at(base: str, *parts: str | int) -> str:
    """The path `base/part/part`. Parts are fully quoted, including slashes, so that no value can change the route."""
    return "/".join((base, *(quote(str(part), safe="") for part in parts)))


def flag(value: bool) -> str | None:
    return "true" if value else None


def _nothing(_: bytes) -> None:
    return None


class Paged(Protocol[Item_co]):
    """Any list response: `wire.base.Page`, `wire.models.CatalogPage`."""

    @property
    def data(self) -> Sequence[Item_co]: ...
    @property
    def next_cursor(self) -> str | None: ...


class SyncTransport(Protocol):
    def send(self, call: Call[Answer]) -> Answer: ...
    def walk(self, call: Call[Paged[Item]]) -> Iterator[Item]: ...


class AsyncTransport(Protocol):
    async def send(self, call: Call[Answer]) -> Answer: ...
    def walk(self, call: Call[Paged[Item]]) -> AsyncIterator[Item]: ...


Transport = TypeVar("Transport", SyncTransport, AsyncTransport)


class Resource(Generic[Transport]):
    """Base class of the resources, for either transport."""

    def __init__(self, transport: Transport, prefix: str = "/v1") -> None:
        """`prefix` differs for resources that exist for projects and for the platform, such as agents."""
        self._transport: Transport = transport
        self._prefix = prefix


class sent(Generic[Params, Answer]):  # noqa: N801 - used as a decorator
    """Turns a method that builds a call into one that sends it."""

    def __init__(self, build: Callable[Concatenate[Any, Params], Call[Answer]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: Resource[SyncTransport], owner: type[Any]) -> Callable[Params, Answer]: ...
    @overload
    def __get__(self, instance: Resource[AsyncTransport], owner: type[Any]) -> Callable[Params, Awaitable[Answer]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type[Any]) -> Any:
        if instance is None:
            return self

        @functools.wraps(self._build)
        def method(*args: Params.args, **kwargs: Params.kwargs) -> Any:
            return instance._transport.send(self._build(instance, *args, **kwargs))  # noqa: SLF001 - a method of it

        return method


class listed(Generic[Params, Item]):  # noqa: N801 - used as a decorator
    """Turns a method that builds the call of a first page into one that iterates over all items."""

    def __init__(self, build: Callable[Concatenate[Any, Params], Call[Paged[Item]]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: Resource[SyncTransport], owner: type[Any]) -> Callable[Params, Iterator[Item]]: ...
    @overload
    def __get__(
        self, instance: Resource[AsyncTransport], owner: type[Any]
    ) -> Callable[Params, AsyncIterator[Item]]: ...
    def __get__(self, instance: Resource[Any] | None, owner: type[Any]) -> Any:
        if instance is None:
            return self

        @functools.wraps(self._build)
        def method(*args: Params.args, **kwargs: Params.kwargs) -> Any:
            return instance._transport.walk(self._build(instance, *args, **kwargs))  # noqa: SLF001 - a method of it

        return method


def next_page(call: Call[Answer], cursor: str) -> Call[Answer]:
    return replace(call, query={**call.query, "after": cursor})
