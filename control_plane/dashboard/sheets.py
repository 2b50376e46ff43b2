"""Flat tables of figures: what stands beside a chart, and what a spreadsheet opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from control_plane.csv_fields import csv_lines
from control_plane.dashboard.render import show_size

Kind = Literal["day", "integer", "share", "bytes", "milliseconds", "text", "flag"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Args:
        name: in CSV.
        kind: what it holds, and so how it is shown.
        head: for people; the name's words unless it is given.
        empty: what people read where there is nothing; an empty field in CSV.
    """

    name: str
    kind: Kind = "integer"
    head: str = ""
    empty: str = "-"

    @property
    def title(self) -> str:
        """What people read above it."""
        return self.head or self.name.replace("_", " ").capitalize()

    @property
    def is_number(self) -> bool:
        """Whether it stands to the right."""
        return self.kind not in ("day", "text", "flag")

    def show(self, value: Any) -> str:
        """Return a value as people read it."""
        if value is None:
            return self.empty
        match self.kind:
            case "integer":
                return f"{value:,}"
            case "share":
                return show_share(value)
            case "bytes":
                return show_size(value)
            case "milliseconds":
                return show_duration(value)
            case "flag":
                return "yes" if value else ""
            case _:
                return str(value)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows under their columns."""

    columns: tuple[Column, ...]
    rows: list[tuple[Any, ...]]

    def shown(self) -> list[list[str]]:
        """Return the rows as people read them."""
        return [[column.show(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def csv(self) -> str:
        """Return it as CSV."""
        return csv_lines([[column.name for column in self.columns], *self.rows])


def show_share(share: float) -> str:
    """Return a share as people read it: to a hundredth of a per cent, which is many devices; less than that as is."""
    percent = 100 * share
    return f"{round(percent, 2) or percent:.4g} %"


def show_duration(milliseconds: float) -> str:
    """Return a duration as people read it."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3g} s"
