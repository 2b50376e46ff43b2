"""How a release goes: adoption as a whole, and one command for each question about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from skafos.cli import figure_pages as pages
from skafos.cli import figure_tables as tables
from skafos.cli import options
from skafos.cli.export import Table, print_csv, write_parquet
from skafos.cli.output import note, print_json
from skafos.cli.session import Session, session

# As the API has them.
MAX_DAYS, MAX_HOURS, MAX_STUCK_HOURS, MAX_STUCK_DEVICES = 400, 336, 2160, 1000
Dimension = Literal["os", "os_version", "device_model", "app_version", "locale"]
Answer = TypeVar("Answer")

Days = Annotated[int, typer.Option("--days", min=1, max=MAX_DAYS, metavar="N", help="How many days, today included.")]
Version = Annotated[
    int | None,
    typer.Option("--version", min=1, metavar="N", help="The version; the one that was deployed last unless given."),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"],
        metavar="MOMENT",
        help="Count from this moment, such as 2026-05-14T12:00Z, and not from the version's first deploy.",
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Parquet = Annotated[Path | None, typer.Option("--parquet", metavar="FILE", help="Write a Parquet file.")]

app = typer.Typer(
    help="Show how a release goes. By itself: which versions devices use, by day.",
    invoke_without_command=True,
    no_args_is_help=False,
    rich_markup_mode=None,
)


@dataclass(frozen=True, slots=True)
class _Output:
    """How an answer is wanted: for people unless one of the others is chosen."""

    json: bool
    csv: bool
    parquet: Path | None

    def __post_init__(self) -> None:
        """Raise when more than one is chosen: asking comes after that."""
        if sum((self.json, self.csv, self.parquet is not None)) > 1:
            raise typer.BadParameter("--json, --csv and --parquet exclude each other.")

    def give(self, answer: Answer, table: Callable[[Answer], Table], page: Callable[[Answer], None]) -> None:
        """Print the answer, or write it."""
        if self.json:
            print_json(answer)
        elif self.csv:
            print_csv(table(answer))
        elif self.parquet is not None:
            made = table(answer)
            write_parquet(made, self.parquet)
            note(f"{len(made.rows)} rows are in {self.parquet}.")
        else:
            page(answer)


@app.callback()
def adoption(
    context: typer.Context,
    env: options.Env = "prod",
    days: Days = 30,
    org: options.Org = None,
    app: options.App = None,
    model: options.Model = None,
    json: options.Json = False,
) -> None:
    """Show which versions devices use, day by day. Also installations in total, and failures."""
    if context.invoked_subcommand is not None:
        sources = (context.get_parameter_source(name) for name in context.params)
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            raise typer.BadParameter(f"Options of {context.invoked_subcommand} stand behind it.")
        return
    with session(org, app, model) as chosen:
        report = chosen.client.adoption(*chosen.of_model, environment=env, days=days)
    if json:
        print_json(report)
    else:
        pages.show_adoption(report)


def _question(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that asks a question, which is given a session, an output and its own options.

    The command's further options are those that all questions share: whose figures, and how they are wanted.
    """

    def register(ask: Callable[..., None]) -> Callable[..., None]:
        def command(
            org: options.Org = None,
            app: options.App = None,
            model: options.Model = None,
            json: options.Json = False,
            csv: Csv = False,
            parquet: Parquet = None,
            **own: Any,
        ) -> None:
            output = _Output(json, csv, parquet)
            with session(org, app, model) as chosen:
                ask(chosen, output, **own)

        _, _, *own = signature(ask, eval_str=True).parameters.values()
        *shared, _ = signature(command, eval_str=True).parameters.values()
        command.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]  # what typer reads options from
        return app.command(name, help=ask.__doc__)(command)

    return register


@_question("curve")
def curve(chosen: Session, output: _Output, env: options.Env = "prod", days: Days = 30) -> None:
    """Show the share of active devices on each version, by day."""
    answer = chosen.client.adoption_curve(*chosen.of_model, environment=env, days=days)
    output.give(answer, tables.curve_table, pages.show_curve)


@_question("hours")
def hours(
    chosen: Session,
    output: _Output,
    version: Version = None,
    since: Since = None,
    hours: Annotated[
        int, typer.Option("--hours", min=1, max=MAX_HOURS, metavar="N", help="How many hours, the first included.")
    ] = 72,
    env: options.Env = "prod",
) -> None:
    """Show the same by hour since a deploy."""
    answer = chosen.client.hourly_adoption(*chosen.of_model, environment=env, version=version, since=since, hours=hours)
    output.give(answer, tables.hours_table, pages.show_hours)


@_question("devices")
def devices(
    chosen: Session,
    output: _Output,
    by: Annotated[Dimension, typer.Option("--by", metavar="WHAT", help=f"One of {', '.join(Dimension.__args__)}.")] = (
        "os_version"
    ),
    env: options.Env = "prod",
    days: Days = 30,
) -> None:
    """Show active devices by OS version, app version and so on."""
    answer = chosen.client.active_devices(*chosen.of_model, environment=env, dimension=by, days=days)
    output.give(answer, tables.devices_table, pages.show_devices)


@_question("installations")
def installations(chosen: Session, output: _Output, env: options.Env = "prod") -> None:
    """Show devices that ever activated the model."""
    answer = chosen.client.installations(*chosen.of_model, environment=env)
    output.give(answer, tables.installations_table, pages.show_installations)


@_question("mix")
def mix(chosen: Session, output: _Output, env: options.Env = "prod", days: Days = 30) -> None:
    """Show which versions active devices hold now."""
    answer = chosen.client.version_mix(*chosen.of_model, environment=env, days=days)
    output.give(answer, tables.mix_table, pages.show_mix)


@_question("funnel")
def funnel(chosen: Session, output: _Output, env: options.Env = "prod", days: Days = 30) -> None:
    """Show how far updates come, and where most stop."""
    answer = chosen.client.funnel(*chosen.of_model, environment=env, days=days)
    output.give(answer, tables.funnel_table, pages.show_funnel)


@_question("failures")
def failures(
    chosen: Session,
    output: _Output,
    reasons: Annotated[bool, typer.Option("--reasons", help="With --csv or --parquet: the reasons.")] = False,
    env: options.Env = "prod",
    days: Days = 30,
) -> None:
    """Show how often versions fail, how sure that is, and why."""
    answer = chosen.client.failure_rates(*chosen.of_model, environment=env, days=days)
    output.give(answer, tables.reasons_table if reasons else tables.failures_table, pages.show_failures)


@_question("downloads")
def downloads(chosen: Session, output: _Output, env: options.Env = "prod", days: Days = 30) -> None:
    """Show how long downloads take."""
    answer = chosen.client.download_times(*chosen.of_model, environment=env, days=days)
    output.give(answer, tables.download_times_table, pages.show_download_times)


@_question("bytes")
def bytes_sent(
    chosen: Session,
    output: _Output,
    encodings: Annotated[
        bool, typer.Option("--encodings", help="With --csv or --parquet: by encoding, not by day.")
    ] = False,
    env: options.Env = "prod",
    days: Days = 30,
) -> None:
    """Show bytes sent, and saved by patches."""
    answer = chosen.client.bytes_sent(*chosen.of_model, environment=env, days=days)
    output.give(answer, tables.encodings_table if encodings else tables.bytes_table, pages.show_bytes)


@_question("time")
def time_to_adopt(
    chosen: Session,
    output: _Output,
    version: Version = None,
    since: Since = None,
    env: options.Env = "prod",
) -> None:
    """Show how long a version took to 50, 90 and 99 % of devices."""
    answer = chosen.client.time_to_adopt(*chosen.of_model, environment=env, version=version, since=since)
    output.give(answer, tables.time_to_adopt_table, pages.show_time_to_adopt)


@_question("stuck")
def stuck(
    chosen: Session,
    output: _Output,
    version: Version = None,
    hours: Annotated[
        int,
        typer.Option("--hours", min=0, max=MAX_STUCK_HOURS, metavar="N", help="How long a device tried, at least."),
    ] = 24,
    days: Annotated[
        int, typer.Option("--days", min=1, max=MAX_DAYS, metavar="N", help="Devices heard of in so many days.")
    ] = 14,
    limit: Annotated[
        int,
        typer.Option("--limit", min=0, max=MAX_STUCK_DEVICES, metavar="N", help="Devices to list; all are counted."),
    ] = 100,
    env: options.Env = "prod",
) -> None:
    """Show devices that are stuck, since when, and why."""
    answer = chosen.client.stuck_devices(
        *chosen.of_model, environment=env, version=version, hours=hours, days=days, limit=limit
    )
    output.give(answer, tables.stuck_table, pages.show_stuck)
