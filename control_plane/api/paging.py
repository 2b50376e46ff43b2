"""Lists, a page at a time: by keyset, so that a page costs the same however far down it is.

The cursor is the sort key of the last row shown. It is opaque to callers, but not secret and not trusted: whatever it
holds, it only says where in the caller's own list to go on.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, Select, literal, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from control_plane.errors import Invalid
from control_plane.names import has_control_characters
from control_plane.tables import UtcDateTime

# A page of a thousand versions with their files is a few hundred kilobytes; more would be held in memory at once.
MAX_PAGE = 1000
# Sort keys are a name (100 characters, at most 400 bytes) or a moment and an id; base64 adds a third.
MAX_CURSOR_LENGTH = 1024

Item = TypeVar("Item")
Shown = TypeVar("Shown")


class Paging(BaseModel):
    """The query of a list without a query of its own."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=MAX_PAGE, ge=1, le=MAX_PAGE, description="How many at most.")
    cursor: str | None = Field(
        default=None, max_length=MAX_CURSOR_LENGTH, description="From the Link header of a page."
    )


@dataclass(frozen=True, slots=True)
class Keyset:
    """The columns that a list is sorted by; together they are unique.

    Args:
        columns: the columns, most significant first.
        descending: whether the list begins with the highest.
    """

    columns: tuple[InstrumentedAttribute[Any], ...]
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list, and where the next page begins, or None at the end."""

    items: Sequence[Item]
    next_cursor: str | None = None

    def map(self, show: Callable[[Item], Shown]) -> Page[Shown]:
        """Return the page with every item shown by ``show``."""
        return Page([show(item) for item in self.items], self.next_cursor)


async def fetch_page(
    session: AsyncSession, query: Select[*tuple[Any, ...]], keyset: Keyset, paging: Paging
) -> Page[Any]:
    """Return a page of a query's rows, as tuples of what it selects.

    Args:
        session: where to ask.
        query: without order and limit.
        keyset: how the list is sorted.
        paging: how many rows, and after which.

    Raises:
        Invalid: the cursor is not one of this list's.
    """
    query = _after(query, keyset, paging.cursor).add_columns(*keyset.columns)
    query = query.order_by(*(column.desc() if keyset.descending else column for column in keyset.columns))
    rows = (await session.execute(query.limit(paging.limit + 1))).all()
    width = len(keyset.columns)
    more = len(rows) > paging.limit
    shown = rows[: paging.limit]
    return Page([tuple(row[:-width]) for row in shown], encode_cursor(shown[-1][-width:]) if more else None)


def encode_cursor(values: Sequence[Any]) -> str:
    """Return the cursor that says "after the row with this sort key"."""
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(orjson.dumps(plain)).rstrip(b"=").decode()


def decode_cursor(cursor: str, keyset: Keyset) -> list[Any]:
    """Return the sort key in a cursor.

    Raises:
        Invalid: it is not a cursor of a list sorted by ``keyset``.
    """
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise _invalid_cursor() from error
    if not isinstance(values, list) or len(values) != len(keyset.columns):
        raise _invalid_cursor()
    return [_typed(value, column) for value, column in zip(values, keyset.columns, strict=True)]


def _after(query: Select[*tuple[Any, ...]], keyset: Keyset, cursor: str | None) -> Select[*tuple[Any, ...]]:
    if cursor is None:
        return query
    key = tuple_(*keyset.columns)
    values = zip(decode_cursor(cursor, keyset), keyset.columns, strict=True)
    last = tuple_(*(literal(value, column.type) for value, column in values))
    return query.where(key < last if keyset.descending else key > last)


def _typed(value: Any, column: InstrumentedAttribute[Any]) -> Any:
    """Return a cursor's value as its column's type, or refuse what the database would."""
    if isinstance(column.type, UtcDateTime):
        return _moment(value)
    kind = column.type.python_type
    if kind is int and type(value) is int:
        bits = 63 if isinstance(column.type, BigInteger) else 31
        if -(2**bits) <= value < 2**bits:
            return value
    if kind is str and isinstance(value, str) and not has_control_characters(value):
        return value
    raise _invalid_cursor()


def _moment(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise _invalid_cursor() from error
    if moment.tzinfo is None:
        raise _invalid_cursor()
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # the first or the last moment of all, in another zone
        raise _invalid_cursor() from error


def _invalid_cursor() -> Invalid:
    return Invalid("cursor: take it from the Link header of the page before, unchanged.")
