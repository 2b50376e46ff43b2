"""What happened: pushes, and questions in SQL."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from skafos.cli import options
from skafos.cli.output import note, print_json, print_records, print_table
from skafos.cli.session import session
from skafos.exceptions import InvalidParamError


def push(
    env: options.Env = "prod",
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show which deployments asked for pushes. Also what became of them."""
    with session(org, app, model) as chosen:
        deployments = chosen.client.list_deployments(*chosen.of_model, environment=env)
    asked = [each for each in deployments if each.push.status != "not_requested"]
    missing = any(each.push.status == "not_configured" for each in asked)
    if json:
        print_json({"environment": env, "not_configured": missing, "deployments": asked})
        return
    rows = [[each.number, each.version, each.push.status, each.created_at, each.actor] for each in asked]
    print_table(["DEPLOYMENT", "VERSION", "PUSH", "WHEN", "BY"], rows, "no deployment asked for a push")
    if missing:
        note(f"{env} has no push credentials, so nothing was sent; devices look by themselves.")


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
