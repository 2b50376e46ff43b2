"""More applications than are drawn: what arrived for one is inserted again for others, within ClickHouse.

A table's rows of one application lie apart from those of every other, so for questions about another it does not
matter that their devices do the same. Copies go through every view, as shipped events do, and cost neither drawing nor
sending.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final

from telemetry.columns import COLUMNS
from telemetry.literals import Value, literal
from telemetry.segment import EventLabels
from telemetry.warehouse import Warehouse

INSERT_ROWS: Final = 400_000
"""Some shipper's inserts at once; the views hold several of them in memory, and the embedded engine has 1 GB."""

_LABELS: Final = ("organization_id", "organization", "application_id", "application")
_OTHERS: Final = tuple(name for name in COLUMNS if name not in _LABELS)
_OF_DAY: Final = (
    "FROM raw_events "
    "WHERE organization_id = {from_organization} AND application_id = {from_application} AND day = {day}"
)
_COUNT: Final = f"SELECT count() AS rows {_OF_DAY}"


async def copy_day(warehouse: Warehouse, of: EventLabels, copies: Sequence[EventLabels], day: date) -> int:
    """Give other applications what one has of a day; return how many rows that made.

    Raises:
        WarehouseUnavailable, QueryFailed
    """
    values: dict[str, Value] = {
        "from_organization": of.organization_id,
        "from_application": of.application_id,
        "day": day,
    }
    (row,) = await warehouse.query(_COUNT, values)
    rows = int(row["rows"])
    at_once = max(1, INSERT_ROWS // max(rows, 1))
    for first in range(0, len(copies), at_once):
        await warehouse.query(_copy(copies[first : first + at_once]), values)
    return rows * len(copies)


def _copy(copies: Sequence[EventLabels]) -> str:
    """Return the statement that inserts a day's rows once for each application."""
    labels = ", ".join(literal([getattr(one, name) for name in _LABELS]) for one in copies)
    numbered = ", ".join(f"label.{number}" for number in range(1, len(_LABELS) + 1))
    others = ", ".join(_OTHERS)
    return (
        f"INSERT INTO raw_events ({', '.join(_LABELS)}, {others}) SELECT {numbered}, {others} "
        f"FROM (SELECT {others} {_OF_DAY}) AS of_day ARRAY JOIN [{labels}] AS label"
    )
