"""What a question has a server read: rows and bytes, as the native protocol tells them with each answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clickhouse_driver import Client

from bench.telemetry.comparing import Question
from telemetry.literals import Value, bind
from telemetry.server_warehouse import ServerWarehouse, connection_options
from telemetry.warehouse import Row


@dataclass(frozen=True)
class Read:
    """Rows that were read from tables, and their bytes before compression."""

    rows: int
    bytes: int


class RecordingWarehouse(ServerWarehouse):
    """A warehouse on a server that remembers what it is asked.

    Args:
        url: as for `ServerWarehouse`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url
        self.statements: list[str] = []

    async def query(self, sql: str, params: Mapping[str, Value] | None = None) -> list[Row]:
        """See ``Warehouse.query``."""
        self.statements.append(bind(sql, params or {}))
        return await super().query(sql, params)


async def read_for(warehouse: RecordingWarehouse, question: Question) -> Read:
    """Ask a question whose figures are kept, then its statements once more; return what these read."""
    warehouse.statements.clear()
    await question.ask(warehouse)
    return read_by(warehouse.url, warehouse.statements)


def read_by(url: str, statements: Iterable[str]) -> Read:
    """Return what statements read, each on its own, on a connection of their own."""
    client = Client(**connection_options(url))
    rows = size = 0
    try:
        for sql in statements:
            client.execute(sql)
            progress = client.last_query.progress
            rows, size = rows + progress.rows, size + progress.bytes
    finally:
        client.disconnect()
    return Read(rows, size)
