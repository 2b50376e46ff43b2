"""Values as ClickHouse SQL literals, the same for every engine and version (18.16 knows no server-side parameters)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

Value = str | int | date | Sequence[str] | Sequence[int]

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


def literal(value: Value) -> str:
    """Return ``value`` as a literal; a sequence becomes a list in parentheses, for ``IN``.

    Within quotes ClickHouse gives a meaning to the backslash and the quote alone (SQL reference, "String literals").

    Raises:
        ValueError: an empty sequence, which ``IN`` cannot take.
    """
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, date):
        return f"toDate('{value.isoformat()}')"
    if not value:
        raise ValueError("an empty list has no literal")
    return "(" + ", ".join(literal(item) for item in value) + ")"


def bind(sql: str, values: Mapping[str, Value]) -> str:
    """Put literals in place of ``{name}``; one pass, so a value that looks like a placeholder stays a value.

    Raises:
        KeyError: a placeholder without a value.
    """
    return _PLACEHOLDER.sub(lambda match: literal(values[match.group(1)]), sql)
