"""Questions in SQL."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from skafos.cli import options
from skafos.cli.output import note, print_json, print_records
from skafos.cli.session import session
from skafos.exceptions import InvalidParamError


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help='One SELECT over the view "events"; - reads it.')],
    org: options.Org = None,
    json: options.Json = False,
) -> None:
    """Ask ClickHouse, read-only. It prints a table, and a list of objects with --json."""
    text = _standard_input() if query == "-" else query
    with session() as chosen:
        answer = chosen.client.sql(text, organization=org)
    if answer.truncated:
        note(f"These are the first {len(answer.rows)} rows; there are more.")
    if json:
        print_json(answer.rows)
    else:
        print_records(answer.rows)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise InvalidParamError("The query on standard input is no valid UTF-8.") from None
