"""Flat tables for other programs: CSV on standard output, or a Parquet file.

A table without rows is a table: CSV has its header then, Parquet its schema. What could not be asked makes neither.

Parquet is written by the ClickHouse that Skafos brings along for its embedded warehouse (chdb), so it needs nothing
installed besides. It reads ``config.xml`` in the working directory, already while it is imported; so it works in a
folder of its own.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

from skafos.cli.output import printable
from skafos.exceptions import SkafosError

Kind = Literal["day", "moment", "integer", "number", "text", "flag"]

# How ClickHouse calls them, and so which types Parquet gets: DATE, TIMESTAMP (microseconds, UTC), INT64, DOUBLE, UTF8.
_TYPES: Final[dict[Kind, str]] = {
    "day": "Date32",
    "moment": "DateTime64(6, 'UTC')",
    "integer": "Int64",
    "number": "Float64",
    "text": "String",
    "flag": "Bool",
}
_WRITE: Final = """
INSERT INTO FUNCTION file('rows.parquet', 'Parquet')
SELECT * FROM file('rows.ndjson', 'JSONEachRow', '{columns}')
SETTINGS date_time_input_format = 'best_effort', output_format_parquet_string_as_string = 1
"""


class ParquetFailed(SkafosError):
    """The file could not be written."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, what it holds, and whether a row may have nothing there."""

    name: str
    kind: Kind
    optional: bool = False

    @property
    def type(self) -> str:
        """The column's type as ClickHouse calls it."""
        return f"Nullable({_TYPES[self.kind]})" if self.optional else _TYPES[self.kind]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their columns; days and moments as the API writes them."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]

    @property
    def names(self) -> list[str]:
        """The names of its columns."""
        return [column.name for column in self.columns]


def print_csv(table: Table) -> None:
    """Print a table as CSV (RFC 4180, lines end in a line feed); nothing is an empty field."""
    print_rows(table.columns, table.rows)


def print_rows(columns: Sequence[Column], rows: Iterable[tuple[Any, ...]]) -> None:
    """Print rows as they come, as CSV."""
    # Python 3.11 quotes a field for the characters of the line's end only: with both, a text cannot break its row.
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\r\n")
    for row in chain([[column.name for column in columns]], rows):
        writer.writerow([_field(value) for value in row])
        sys.stdout.write(line.getvalue().removesuffix("\r\n") + "\n")
        line.seek(0)
        line.truncate()


def write_parquet(table: Table, target: Path) -> None:
    """Write a table as a Parquet file, which is there whole or not at all.

    Raises:
        ParquetFailed: the engine cannot write it, or is not there.
        OSError: the file cannot be put in its place.
    """
    target = target.absolute()
    part = target.with_name(f"{target.name}.part")
    with tempfile.TemporaryDirectory(prefix="skafos-") as folder:
        rows = (json.dumps(dict(zip(table.names, row, strict=True))) for row in table.rows)
        (Path(folder) / "rows.ndjson").write_text("".join(f"{row}\n" for row in rows), "ascii")
        _convert(Path(folder), table.columns)
        try:
            shutil.copyfile(Path(folder) / "rows.parquet", part)
            part.replace(target)
        except BaseException:
            with suppress(FileNotFoundError):
                part.unlink()
            raise


def _convert(folder: Path, columns: Sequence[Column]) -> None:
    structure = ", ".join(f"{column.name} {column.type}" for column in columns).replace("'", "\\'")
    with chdir(folder):
        try:
            import chdb

            query: Any = chdb.query
            query(_WRITE.format(columns=structure))
        except ImportError as error:
            raise ParquetFailed("Parquet is written by chdb; install it with: pip install chdb-core") from error
        except RuntimeError as error:  # the one error that the engine raises
            raise ParquetFailed(f"The Parquet file could not be written: {str(error).splitlines()[0]}") from error


def _field(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable(value) if isinstance(value, str) and sys.stdout.isatty() else value
