"""Rows straight into ``raw_events``, past the product's own way, so that tens of millions are there in minutes."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from bench.telemetry.native import native_block
from bench.telemetry.population import Population
from bench.telemetry.rows import Rows
from telemetry.columns import COLUMNS
from telemetry.warehouse import Warehouse

BLOCK_ROWS: Final = 100_000
"""An insert of the shipper's has some 25,000; larger ones are quicker, and memory holds several."""
ANSWER_SECONDS: Final = 300
"""A server that merges large parts at the same time is slow."""


class NotFilled(Exception):
    """The server did not take the rows; the message is its own."""


async def column_types(warehouse: Warehouse) -> dict[str, str]:
    """Return the types of the columns that the shipper writes."""
    described = await warehouse.query("DESCRIBE TABLE raw_events")
    types = {str(row["name"]): str(row["type"]) for row in described}
    return {name: types[name] for name in COLUMNS}


def blocks(days: Iterable[Rows]) -> Iterator[Rows]:
    """Yield the rows in pieces of ``BLOCK_ROWS``."""
    for rows in days:
        for first in range(0, len(rows), BLOCK_ROWS):
            yield Rows({name: column[first : first + BLOCK_ROWS] for name, column in rows.columns.items()})


async def fill_server(
    warehouse: Warehouse, url: str, http_port: int, days: Iterable[Rows], populations: Sequence[Population]
) -> int:
    """Insert over HTTP into the database of a ``clickhouse://`` address; return how many rows.

    Raises:
        NotFilled: the server refused some.
    """
    types = await column_types(warehouse)
    parts = urlsplit(url)
    password = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
    sql = f"INSERT INTO {parts.path.lstrip('/')}.raw_events ({', '.join(types)}) FORMAT Native"
    connection = http.client.HTTPConnection(parts.hostname or "", http_port, timeout=ANSWER_SECONDS)
    count = 0
    try:
        for rows in blocks(days):
            body = native_block(rows, populations, types)
            connection.request("POST", f"/?query={quote(sql)}", body, {"Authorization": f"Basic {password}"})
            answer = connection.getresponse()
            told = answer.read()
            if answer.status != 200:
                raise NotFilled(told.decode("utf-8", "replace")[:500])
            count += len(rows)
    finally:
        connection.close()
    return count


async def fill_embedded(
    warehouse: Warehouse, folder: Path, days: Iterable[Rows], populations: Sequence[Population]
) -> int:
    """Insert into the engine in this process, through a file in ``folder``; return how many rows."""
    types = await column_types(warehouse)
    file = folder / "rows.native"
    names = ", ".join(types)
    count = 0
    for rows in blocks(days):
        file.write_bytes(native_block(rows, populations, types))
        await warehouse.query(f"INSERT INTO raw_events ({names}) SELECT {names} FROM file('{file}', 'Native')")
        count += len(rows)
    file.unlink(missing_ok=True)
    return count
