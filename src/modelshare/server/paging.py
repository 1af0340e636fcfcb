"""Pages of a list, and the cursors that lead from one to the next."""

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Query

from modelshare.server.errors import InvalidRequestError
from modelshare.wire.base import PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX

_LARGEST = 2**63 - 1
"""The largest integer of the databases."""
Row = TypeVar("Row")
First = TypeVar("First", int, str, uuid.UUID)
Second = TypeVar("Second", int, str, uuid.UUID)


def _id_of(row: Any) -> tuple[object, ...]:
    return (row.id,)


@dataclass(frozen=True, slots=True)
class Paging:
    """The requested page of a list."""

    limit: int
    after: str | None = None

    @property
    def fetch_limit(self) -> int:
        """How many rows to query: one more than the page shows whether there is a next one."""
        return self.limit + 1

    @property
    def after_id(self) -> uuid.UUID | None:
        """The last row of the previous page, for a list that is ordered by id."""
        return decode_cursor(self.after, uuid.UUID)[0] if self.after else None

    def after_row(self, first: type[First], second: type[Second]) -> tuple[First, Second] | None:
        """As `after_id`, for a list that is ordered by two columns of these types."""
        if not self.after:
            return None
        one, other = decode_cursor(self.after, first, second)
        return one, other

    def cut(
        self, rows: Sequence[Row], cursor_of: Callable[[Row], tuple[object, ...]] = _id_of
    ) -> tuple[list[Row], str | None]:
        """The page's rows of at most `fetch_limit`, and the cursor of the next page. `cursor_of`: what orders them."""
        page = list(rows[: self.limit])
        return page, encode_cursor(*cursor_of(page[-1])) if len(rows) > self.limit else None


async def _paging(
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT_MAX)] = PAGE_LIMIT_DEFAULT, after: str | None = None
) -> Paging:
    return Paging(limit, after)


PagingDep = Annotated[Paging, Depends(_paging)]


def encode_cursor(*values: object) -> str:
    """A cursor that carries the sort values of a page's last row: strings, numbers and UUIDs."""
    text = json.dumps(values, separators=(",", ":"), default=str)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type[int | str | uuid.UUID]) -> list[Any]:
    """The values of `encode_cursor`, which must be of these kinds; 400 for anything else."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(values, list):
            raise TypeError(values)  # noqa: TRY301 - all invalid cursors are handled below
        return [_of_kind(value, kind) for value, kind in zip(values, kinds, strict=True)]
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidRequestError("Invalid `after` cursor. Take it from `next_cursor`.", param="after") from error


def _of_kind(value: Any, kind: type[int | str | uuid.UUID]) -> int | str | uuid.UUID:
    if kind is uuid.UUID and isinstance(value, str):
        return uuid.UUID(value)
    if type(value) is not kind or (isinstance(value, int) and abs(value) > _LARGEST):
        raise TypeError(value)
    str(value).encode()  # JSON allows lone surrogates, databases do not
    return cast("int | str", value)
