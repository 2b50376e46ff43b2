"""Processes of Skafos: all of them with one command, or one role each."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from skafos.configuration import DEFAULT_URL
from skafos.exceptions import InvalidParamError

DEFAULT_CONTROL = DEFAULT_URL.removeprefix("http://")
DEFAULT_EDGE = "127.0.0.1:8801"
DEFAULT_DATA = Path("skafos-data")
# Two leave a small machine's other core to the control plane.
DEFAULT_WORKERS = 2

Logs = Annotated[bool, typer.Option("--json", help="Accepted everywhere; servers log JSON in any case.")]


def up(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Where everything is kept.")] = DEFAULT_DATA,
    control: Annotated[
        str, typer.Option("--control", metavar="HOST:PORT", help="Of the control plane.")
    ] = DEFAULT_CONTROL,
    edge: Annotated[str, typer.Option("--edge", metavar="HOST:PORT", help="Of the edge.")] = DEFAULT_EDGE,
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Edge processes.")] = DEFAULT_WORKERS,
    demo: Annotated[bool, typer.Option("--demo", help="With an example organization and simulated devices.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when everything answers, and sentences elsewhere.")
    ] = False,
) -> None:
    """Start everything on this machine, until Ctrl-C. DIR/connection.json says how to connect."""
    from skafos.announce import Announcer, JsonAnnouncer
    from skafos.up import run

    raise typer.Exit(run(data, control, edge, workers, demo, JsonAnnouncer() if json else Announcer()))


def control_plane(
    json: Logs = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Run a control plane, from SKAFOS_* settings."""
    _become("control_plane")


def edge(
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", max=64, help="Processes that share the port.")
    ] = 1,
    json: Logs = False,  # noqa: ARG001 - every command takes it
) -> None:
    """Run an edge, from SKAFOS_* settings."""
    if workers == 1:
        _become("edge")
    from skafos.workers import run_edges

    raise typer.Exit(run_edges(workers))


def shipper(
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Show the segments that were put aside, and why, instead.")
    ] = False,
    redrive: Annotated[
        list[str] | None,
        typer.Option("--redrive", metavar="NAME", help="Have a segment that was put aside shipped again; `all`: all."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print segments that were put aside as JSON; a shipper logs JSON anyway.")
    ] = False,
) -> None:
    """Ship stored events into ClickHouse, from SKAFOS_* settings."""
    if dead_letters or redrive:
        names = [word for name in redrive or [] for word in ("--redrive", name)]
        _become("telemetry.dead_letters", *names, *(["--json"] if json else []))
    _become("telemetry")


def _become(module: str, *arguments: str) -> None:
    """Let this process go on as another program: signals and the exit code are its own."""
    from skafos.installation import python, source_directory

    path = os.pathsep.join(filter(None, [source_directory(), os.environ.get("PYTHONPATH", "")]))
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, python(module, *arguments), {**os.environ, "PYTHONPATH": path})  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise InvalidParamError(f"Cannot start {module}: {error.strerror}.") from error
