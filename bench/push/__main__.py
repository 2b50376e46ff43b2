"""``python -m bench.push``: how fast one worker pushes, when it begins, and how fast devices get into the database."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.edge.cores import Cores, TooFewCores, choose_cores, on
from bench.edge.machine import circumstances
from bench.edge.nginx import program
from bench.edge.servers import NotStarted, started
from bench.edge.waiting import written
from bench.markdown import GOAL_HEAD, table, verdict, write_section
from bench.push import starting
from bench.push.nginx import nginx, nginx_later
from bench.push.told import SERVER
from tests.components import find_program
from tests.servers.postgres import running_postgres

ROUNDS = 3
DEVICES = 50_000
DELAY_SECONDS = 0.02
APPLE, NGINX = "answers after 20 ms", "nginx answers at once"
NGINX_LATER = "nginx answers after 20 ms"
# Runs within a block, and writes what a worker is told into a folder.
Server = Callable[[Path], AbstractContextManager[None]]
# What they write into performance.md, each between its marks.
PACE, REACH = "push figures", "push reach figures"
CASES = {"pace": PACE, "reach": REACH}
REGISTERED, REGISTRATIONS = 1_000_000, 50_000
REGISTRATION_GOALS = {"SQLite": 5_000, "PostgreSQL": 10_000}
# As a server that keeps what it was told: the tests' own does not.
DURABLE = ("fsync=on", "synchronous_commit=on", "shared_buffers=128MB")
RATE_GOAL, START_GOAL_SECONDS, GROWTH_GOAL_BYTES = 5_000, 1.0, 50 * 2**20


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.push", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="medians are of so many")
    parser.add_argument("--devices", type=int, default=DEVICES, help="that are pushed to in a round")
    parser.add_argument("--only", choices=CASES, help="pace: pushes a second; reach: a million devices, registrations")
    parser.add_argument("--registered", type=int, default=REGISTERED, help="devices among which a push begins")
    parser.add_argument("--registrations", type=int, default=REGISTRATIONS, help="that are brought into the database")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="write the table into performance.md of this folder")
    options = parser.parse_args(words)
    try:
        cores = choose_cores()
    except TooFewCores as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        for case in [options.only] if options.only else CASES:
            text = pace(options, cores) if case == "pace" else reach(options.registered, options.registrations)
            print(text)
            if options.write:
                write_section(options.write / "performance.md", CASES[case], text)
    except NotStarted as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def pace(options: argparse.Namespace, cores: Cores) -> str:
    """Push to many devices, some times; return the table."""
    servers: dict[str, Server] = {APPLE: server}
    if program() is not None:
        servers |= {NGINX_LATER: partial(nginx_later, delay=DELAY_SECONDS), NGINX: nginx}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for number in range(options.rounds):
        for name, start in servers.items():
            with tempfile.TemporaryDirectory(prefix="skafos-bench-") as folder:
                told = one_round(Path(folder), start, cores, options.devices)
            rounds[name].append(told)
            rate = told["accepted"] / told["seconds"]
            print(f"round {number + 1}, {name}: {rate:,.0f} a second", file=sys.stderr)
    return render(rounds, options.devices)


def reach(registered: int, registrations: int) -> str:
    """Begin pushes among many devices, and bring registrations into the database; return the table."""
    when = circumstances(Path(tempfile.gettempdir()))
    rows: list[tuple[str, str, str, str]] = []
    for name, database in DATABASES.items():
        if name == "PostgreSQL" and find_program("postgres") is None:
            print("PostgreSQL is not installed", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="skafos-bench-") as folder, database(Path(folder)) as new_database:
            begun = starting.measure(Path(folder), new_database(), registered)
            stored = register(new_database(), registrations)
        for how, found in begun.items():
            seconds, (least, *_, most) = statistics.median(found), sorted(found)
            what = f"from the request to {how} to the first notification, {registered:,} devices in {name}"
            holds = verdict(seconds <= START_GOAL_SECONDS)
            measured = f"{seconds * 1000:,.0f} ms ({least * 1000:,.0f} to {most * 1000:,.0f})"
            rows.append((what, measured, f"≤ {START_GOAL_SECONDS * 1000:,.0f} ms", holds))
        goal = REGISTRATION_GOALS[name]
        for kind in ("new", "known"):
            rate, cost = stored[kind]["rate"], stored[kind]["cpu_microseconds"]
            what = f"registrations a second from the stream into {name}, {registrations:,} {kind} devices"
            rows.append((what, f"{rate:,.0f} ({cost:.0f} µs of CPU each)", f"≥ {goal:,}", verdict(rate >= goal)))
    preface = f"{when} Pushes {starting.ROUNDS} times each, medians, the least and the greatest; registrations once."
    return f"{preface}\n\n{table(GOAL_HEAD, rows)}"


@contextmanager
def sqlite(folder: Path) -> Iterator[Callable[[], str]]:
    """Give what makes databases within the block."""
    numbers = itertools.count()
    yield lambda: f"sqlite:///{folder / f'{next(numbers)}.sqlite3'}"


@contextmanager
def postgres(_: Path) -> Iterator[Callable[[], str]]:
    """Give what makes databases on a server that runs within the block."""
    with running_postgres(DURABLE) as server:
        yield server.new_database


DATABASES: dict[str, Callable[[Path], AbstractContextManager[Callable[[], str]]]] = {
    "SQLite": sqlite,
    "PostgreSQL": postgres,
}


def register(url: str, count: int) -> dict[str, Any]:
    """Bring registrations into a database by a process of its own."""
    told = _told([sys.executable, "-m", "bench.push.registering", url, str(count)])
    if told["stored"] != count:
        raise SystemExit(f"{told['stored']} of {count} are stored")
    return told


def one_round(folder: Path, start: Server, cores: Cores, devices: int) -> dict[str, Any]:
    """Push once, the server on one core and the worker on the other."""
    with on(cores.load), start(folder), on(cores.server):
        return push(folder, devices)


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """Run the push server within the block."""
    command = [sys.executable, "-m", "bench.push.server", str(folder), str(DELAY_SECONDS)]
    with started(command, folder / "log", written(folder / SERVER)):
        yield


def push(folder: Path, devices: int) -> dict[str, Any]:
    """Push to so many devices in a process of its own."""
    command = [sys.executable, "-m", "bench.push.worker", str(folder), str(devices)]
    told = _told(command)
    if told["accepted"] != devices:
        raise SystemExit(f"{told['accepted']} of {devices} were accepted ({told['state']})")
    return told


def _told(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # the log comes before it
    return told


def render(rounds: Mapping[str, Sequence[dict[str, Any]]], devices: int) -> str:
    """Return the table."""

    def of(value: str) -> list[float]:
        return sorted(one[value] for one in rounds[APPLE])

    first, grown = statistics.median(of("first_slice_seconds")), max(of("grown_bytes"))
    rows = []
    for name, told in rounds.items():
        rates = sorted(one["accepted"] / one["seconds"] for one in told)
        rate = statistics.median(rates)
        rows.append(
            (
                f"pushes a second, one worker, {devices:,} devices, {name}",
                f"{rate:,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})",
                f"≥ {RATE_GOAL:,}",
                verdict(rate >= RATE_GOAL),
            )
        )
        cost = statistics.median(one["cpu_seconds"] / one["accepted"] for one in told) * 1e6
        rows.append(("CPU of the worker for each", f"{cost:.0f} µs", "", ""))
    rows += [
        (
            f"from the job to the end of its first slice, of {devices:,} devices",
            f"{first * 1000:,.0f} ms",
            f"≤ {START_GOAL_SECONDS * 1000:,.0f} ms",
            verdict(first <= START_GOAL_SECONDS),
        ),
        (
            f"growth of the worker's memory over {devices:,} pushes, after the first tenth",
            f"{grown / 2**20:.1f} MiB",
            f"≤ {GROWTH_GOAL_BYTES // 2**20} MiB",
            verdict(grown <= GROWTH_GOAL_BYTES),
        ),
    ]
    when = circumstances(Path(tempfile.gettempdir()))
    preface = f"{when} {len(rounds[APPLE])} rounds; medians, and the least and the greatest."
    return f"{preface}\n\n{table(GOAL_HEAD, rows)}"


if __name__ == "__main__":
    sys.exit(main())
