"""Tables in Markdown, how a goal is told in them, and where they stand in a document: between two marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["GOAL_HEAD", "replace_section", "table", "verdict", "write_section"]

# What is measured by itself; the last column is the verdict.
GOAL_HEAD = ("what", "measured", "goal", "")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a table; nothing when it has no rows.

    Args:
        head: the titles of the columns.
        rows: as many cells each.
        numbers: how many of the last columns are aligned to the right.
    """
    cells = [_line(row) for row in rows]
    if not cells:
        return ""
    rule = "|" + "---|" * (len(head) - numbers) + "--:|" * numbers
    return "\n".join([_line(head), rule, *cells])


def verdict(holds: bool | None) -> str:
    """Return how a goal is told."""
    return {None: "", True: "holds", False: "**does not hold**"}[holds]


def replace_section(text: str, name: str, section: str) -> str:
    """Return ``text`` with what is between ``<!-- {name}: begin -->`` and ``<!-- {name}: end -->`` replaced.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    marked = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if text.count(begin) != 1 or text.count(end) != 1 or not marked.search(text):
        raise ValueError(f"there is no section between {begin} and {end}")
    return marked.sub(lambda _: f"{begin}\n{section}\n{end}", text)


def write_section(path: Path, name: str, section: str) -> None:
    """Replace a section of the file at ``path``."""
    path.write_text(replace_section(path.read_text(), name, section))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
