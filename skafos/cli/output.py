"""How results look: JSON for programs, plain tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from skafos.exceptions import SkafosError

# A cell is cut here on a terminal; JSON has everything.
MAX_CELL = 72


class NotConfirmed(SkafosError):
    """The user was asked, and did not say yes."""


def print_json(value: Any) -> None:
    """Print a value as JSON; records become objects."""
    import msgspec

    print(json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=2, default=str))


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON, at once: for a command that goes on."""
    import msgspec

    print(json.dumps(msgspec.to_builtins(value), ensure_ascii=False, default=str), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str = "nothing") -> None:
    """Print rows under their columns, aligned; ``empty`` when there is none."""
    if not rows:
        print(empty)
        return
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
    for line in [list(columns), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_records(rows: Sequence[Mapping[str, Any]], empty: str = "no rows") -> None:
    """Print objects as a table whose columns are the first one's names."""
    columns = list(rows[0]) if rows else []
    print_table(columns, [[row.get(column) for column in columns] for row in rows], empty)


def ask(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone, on standard error; ``yes`` is the answer from the command line.

    Raises:
        NotConfirmed: the answer is anything but yes, or there is none.
    """
    if yes:
        return
    if _typed(f"{question} [y/N]: ").lower() not in (b"y", b"yes"):
        raise NotConfirmed("Nothing was changed: it was not confirmed. Answer y, or give --yes.")


def ask_name(question: str, name: str, yes: bool) -> None:
    """Ask before something that takes much with it: the answer is the thing's name. ``yes`` as for `ask`.

    Raises:
        NotConfirmed: the answer is not the name.
    """
    if yes:
        return
    if _typed(f"{question} Type its name: ") != name.strip().encode("utf-8", "surrogateescape"):
        raise NotConfirmed("Nothing was changed: it was not confirmed. Type the name, or give --yes.")


def note(sentence: str) -> None:
    """Say something that is not the result."""
    print(sentence, file=sys.stderr)


def printable(text: str) -> str:
    """Return a text that comes from servers, files or devices so that nothing in it can steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _typed(question: str) -> bytes:
    """Return what is typed after a question on standard error: bytes, because it need not be text."""
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.buffer.readline()
    if not answer.endswith(b"\n"):
        # The input ended: the question would share its line with what comes next.
        print(file=sys.stderr)
    return answer.strip()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = printable(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value))
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"
