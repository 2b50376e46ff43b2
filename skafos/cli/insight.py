"""What happened: adoption, and questions in SQL."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from skafos.cli import options
from skafos.cli.output import note, print_json, print_records, print_table
from skafos.cli.session import session
from skafos.exceptions import InvalidParamError

if TYPE_CHECKING:
    from skafos.records import VersionShare


def adoption(
    env: options.Env = "prod",
    days: Annotated[
        int, typer.Option("--days", min=1, max=400, metavar="N", help="How many days, today included.")
    ] = 30,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show which versions devices use, day by day. Also installations in total, and failures."""
    with session(org, app, model) as chosen:
        report = chosen.client.adoption(*chosen.of_model, environment=env, days=days)
    if json:
        print_json(report)
        return
    print(f"{report.model} in {report.environment}: {report.installations} installations in total\n")
    rows = [[day.day, day.active_devices, _shares(day.versions)] for day in report.by_day]
    print_table(["DAY", "ACTIVE", "VERSIONS"], rows, "no device was active")
    print(f"\nnow: {_shares(report.now) or 'no device'}")
    if report.failures:
        print(f"\n{report.failures_total} failures:")
        failures = [[each.version, each.count, each.devices, each.error] for each in report.failures]
        print_table(["VERSION", "COUNT", "DEVICES", "ERROR"], failures)
    else:
        print("no failures")


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


def _shares(versions: list[VersionShare]) -> str:
    return "  ".join(f"{_name(each)} {each.share:.1%} ({each.devices})" for each in versions)


def _name(share: VersionShare) -> str:
    return "none" if share.version is None else f"v{share.version}"
