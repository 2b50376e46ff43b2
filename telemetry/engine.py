"""What migrations, erasing and retention need of ClickHouse: a few blocking calls, made in a lane's thread."""

from __future__ import annotations

from typing import Any, Final, Protocol

_TABLES: Final = "SELECT name, engine FROM system.tables WHERE database = currentDatabase()"


class Engine(Protocol):
    """ClickHouse, whichever way it is reached. Every method raises that way's own errors."""

    def version(self) -> tuple[int, int]:
        """Return the engine's version, for example (18, 16)."""

    def execute(self, sql: str) -> Any:
        """Run a statement."""

    def fetch(self, sql: str) -> list[dict[str, Any]]:
        """Run a question."""


def tables_of(engine: Engine) -> dict[str, str]:
    """Return the tables and views of the database, each with the name of its engine, such as ``Distributed``."""
    return {str(row["name"]): str(row["engine"]) for row in engine.fetch(_TABLES)}
