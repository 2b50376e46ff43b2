"""CSV (RFC 4180) that a spreadsheet opens without taking a text for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, Final

# What a spreadsheet takes for the beginning of a formula (OWASP, CSV Injection). Devices and members choose some texts.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as lines of CSV; nothing is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([_field(value) for value in row] for row in rows)
    return text.getvalue()


def _field(value: Any) -> Any:
    """Return a value as CSV has it; a text that looks like a formula gets a quote in front, which keeps it a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
