"""Rows as columns for ClickHouse, past spool and shipper, so that tens of millions are there in minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from bench.telemetry.deployments import DAY
from bench.telemetry.population import Population
from bench.telemetry.rows import NONE, TEXTS, Column, Rows
from telemetry import native
from telemetry.columns import COLUMN_TYPES, EventColumns
from telemetry.warehouse import Warehouse

BLOCK_ROWS: Final = 100_000
"""Some shipper's inserts at once; larger ones are quicker, and the views hold several of them in memory."""
_LABELS: Final = ("organization_id", "organization", "application_id", "application", "environment")
_WIDTHS: Final = {"Date": np.uint16, "DateTime('UTC')": np.uint32, "UInt32": np.uint32, "UInt64": np.uint64}
_MOMENTS: Final[dict[str, Callable[[Rows], Column]]] = {
    "day": lambda rows: rows["received_ms"] // (DAY * 1000),
    "received_at": lambda rows: rows["received_ms"] // 1000,
    "occurred_at": lambda rows: rows["occurred"],
    "arrival": lambda rows: rows.arrival(),
}


async def fill(warehouse: Warehouse, days: Iterable[Rows], populations: Sequence[Population]) -> int:
    """Insert rows by the warehouse's own method; return how many.

    Args:
        warehouse: migrated.
        days: rows in order of arrival; no row comes in two calls.
        populations: all that the rows come from.

    Raises:
        WarehouseUnavailable, InsertRejected
    """
    count = 0
    for rows in _blocks(days):
        first = f"{rows['id_high'][0]:016x}{rows['id_low'][0]:016x}-{rows['received_ms'][0]}-{rows['place'][0]}"
        await warehouse.insert_events(columns_of(rows, populations), first)
        count += len(rows)
    return count


def columns_of(rows: Rows, populations: Sequence[Population]) -> EventColumns:
    """Return rows as the columns of ``raw_events``."""
    values = tuple(_column(name, kind, rows, populations) for name, kind in COLUMN_TYPES.items())
    return EventColumns(values, len(rows))


def _blocks(days: Iterable[Rows]) -> Iterator[Rows]:
    for rows in days:
        for first in range(0, len(rows), BLOCK_ROWS):
            yield Rows({name: column[first : first + BLOCK_ROWS] for name, column in rows.columns.items()})


def _column(name: str, kind: str, rows: Rows, populations: Sequence[Population]) -> native.Column:
    if name in _LABELS:
        return _coded([getattr(one.settings.labels, name) for one in populations], rows["source"])
    if (column := "kind" if name == "type" else name) in TEXTS:
        return _coded(TEXTS[column], rows[column])
    if name == "device_id":
        return _device_ids(rows, populations)
    if name == "event_id":
        return np.stack([rows["id_high"], rows["id_low"]], axis=1)
    values = _MOMENTS[name](rows) if name in _MOMENTS else rows[name]
    if not kind.startswith("Nullable("):
        return values.astype(_WIDTHS[kind])
    missing = values == NONE
    numbers = np.where(missing, 0, values).astype(_WIDTHS[kind[len("Nullable(") : -1]])
    return native.Nullable(numbers, missing.astype(np.uint8))


def _coded(texts: Sequence[str], codes: Column) -> native.Coded:
    """Return a column of the texts that are used, each once: several populations have the same labels."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts[code] for code in np.unique(codes)))}
    places = np.array([numbers.get(text, 0) for text in texts], np.int64)
    return native.Coded(places[codes], list(numbers))


def _device_ids(rows: Rows, populations: Sequence[Population]) -> native.Coded:
    whose = rows["source"].astype(np.int64) << 32 | rows["device"]
    known, codes = np.unique(whose, return_inverse=True)
    ids = [populations[one >> 32].devices.ids[one & 0xFFFFFFFF].decode() for one in known.tolist()]
    return native.Coded(codes, ids)
