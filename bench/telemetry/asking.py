"""Questions over a large population: how long each takes, and whether its answer is what was true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import psutil  # type: ignore[import-untyped]

from bench.edge.cores import on
from bench.telemetry.comparing import Compared, Question, all_questions, compare, timed
from bench.telemetry.copying import copy_day
from bench.telemetry.filling import fill
from bench.telemetry.fleet import APPS, Fleet, devices_for
from bench.telemetry.raw import raw_seconds
from bench.telemetry.reading import Read, RecordingWarehouse, read_for
from bench.telemetry.settings import Run
from bench.telemetry.truth import Truth
from telemetry.kept_figures import SETTLED_SECONDS
from telemetry.warehouse import Warehouse, open_warehouse
from tests.servers.clickhouse import ClickHouseServer, clickhouse_server

TIMES: Final = 5
SEED: Final = 1
DRAWN_APPS: Final = 2
"""The one that is asked about and another, of which the others are copies."""
SPARE_SECONDS: Final = 5.0
"""ClickHouse tells times in whole seconds."""
MERGED_SECONDS: Final = 60.0
"""After filling, merges of a large table go on for a while and would be measured as well."""


@dataclass
class Asked:
    """One question to one engine.

    Args:
        counted: seconds of each time that it was asked soon after the last rows came, when everything is counted.
        seconds: the same later, when figures of days and hours that are over are kept.
        cpu_seconds: of ClickHouse's process each of these times, in the mean; a busy machine changes them least.
        read: what a server reads for it then.
    """

    compared: Compared
    counted: Sequence[float]
    seconds: Sequence[float] = ()
    cpu_seconds: float = 0.0
    read: Read | None = None


@dataclass
class Engine:
    """What was measured with one engine.

    Args:
        name: ``server`` or ``embedded``.
        version: of ClickHouse.
        rows: in the table.
        filling_seconds: that inserting them took.
        asked: every question.
        raw_seconds: of questions over the events themselves, by name.
        process: of the server, or this one.
    """

    name: str
    version: str = ""
    rows: int = 0
    filling_seconds: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    raw_seconds: dict[str, list[float]] = field(default_factory=dict)
    process: psutil.Process = field(default_factory=psutil.Process)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that the engine's process has used."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


@dataclass(frozen=True)
class Answers:
    """What was measured with all engines.

    Args:
        devices: of the population, all apps together.
        events: of the model that is asked about, each once.
        apps: that share the table.
        days: that events are spread over.
        generating_seconds: that making and counting them took.
    """

    devices: int
    events: int
    apps: int
    days: int
    generating_seconds: float
    engines: tuple[Engine, ...]


def measure_answers(run: Run) -> Answers:
    """Fill the engines with one population, ask everything, and hold it against the truth; all share both cores."""
    with ExitStack() as stack:
        stack.enter_context(on(*run.bench.cores.both))
        server = None
        if "server" in run.engines:
            server = stack.enter_context(clickhouse_server(run.new_folder("clickhouse")))
        return asyncio.run(_answers(run, server))


async def _answers(run: Run, server: ClickHouseServer | None) -> Answers:
    # The window's last day is today: it is counted anew each time, as whoever looks at figures has it counted.
    first_day = datetime.now(UTC).date() - timedelta(days=run.days - 1)
    devices = devices_for(run.events, run.days)
    fleet = Fleet(devices, first_day, run.days, DRAWN_APPS, SEED, copies=APPS - DRAWN_APPS)
    truth = Truth(fleet.subject)
    folder = run.new_folder("embedded")
    opened: dict[str, Warehouse] = {
        name: RecordingWarehouse(server.url) if name == "server" and server else open_warehouse(None, folder)
        for name in run.engines
    }
    engines = {name: Engine(name) for name in run.engines}
    if server and server.process:
        engines["server"].process = psutil.Process(server.process.pid)
    try:
        for name, warehouse in opened.items():
            await warehouse.migrate()
            engines[name].version = str((await warehouse.query("SELECT version() AS version"))[0]["version"])
        generating = await _fill(run, fleet, truth, opened, engines)
        filled = time.monotonic()
        for name, warehouse in opened.items():
            await _merged(warehouse)
            await _ask_soon(run, warehouse, truth, engines[name])
        run.bench.say("questions: waiting until figures of what is over are kept")
        await asyncio.sleep(max(0.0, filled + SETTLED_SECONDS + SPARE_SECONDS - time.monotonic()))
        for name, warehouse in opened.items():
            await _ask_later(run, warehouse, truth, engines[name])
    finally:
        for warehouse in opened.values():
            await warehouse.close()
    return Answers(fleet.devices, truth.events, fleet.apps, run.days, generating, tuple(engines.values()))


async def _fill(
    run: Run,
    fleet: Fleet,
    truth: Truth,
    opened: dict[str, Warehouse],
    engines: dict[str, Engine],
) -> float:
    """Generate day by day and insert each day into every engine; return the seconds that the first took."""
    began, inserting = time.perf_counter(), 0.0
    for day, rows in enumerate(truth.counting(fleet.days())):
        date_of = fleet.subject.settings.first_day + timedelta(days=day)
        for name, warehouse in opened.items():
            start = time.perf_counter()
            engines[name].rows += await fill(warehouse, [rows], fleet.populations)
            engines[name].rows += await copy_day(warehouse, fleet.copied, fleet.copies, date_of)
            engines[name].filling_seconds += time.perf_counter() - start
            inserting += time.perf_counter() - start
        if day % 10 == 9:
            told = ", ".join(f"{one.name} {one.rows / one.filling_seconds:,.0f} rows/s" for one in engines.values())
            run.bench.say(f"questions: {day + 1} of {run.days} days are there; {told}")
    return time.perf_counter() - began - inserting


async def _merged(warehouse: Warehouse) -> None:
    """Wait until merges have ended, or for long enough."""
    deadline = time.monotonic() + MERGED_SECONDS
    while time.monotonic() < deadline:
        if int((await warehouse.query("SELECT count() AS merges FROM system.merges"))[0]["merges"]) == 0:
            return
        await asyncio.sleep(0.5)


async def _ask_soon(run: Run, warehouse: Warehouse, truth: Truth, engine: Engine) -> None:
    for question in all_questions(truth):
        compared = await _compared(run, warehouse, truth, question, engine)
        engine.asked.append(Asked(compared, await timed(warehouse, question, TIMES)))


async def _compared(run: Run, warehouse: Warehouse, truth: Truth, question: Question, engine: Engine) -> Compared:
    compared = await compare(warehouse, truth, question)
    if compared.differences:
        run.bench.say(f"{engine.name}: {question.name}, {question.about}: {compared.differences[0]}")
    return compared


async def _ask_later(run: Run, warehouse: Warehouse, truth: Truth, engine: Engine) -> None:
    for asked in engine.asked:
        question = asked.compared.question
        await question.ask(warehouse)  # so that figures are kept
        used = engine.cpu_seconds()
        asked.seconds = await timed(warehouse, question, TIMES)
        asked.cpu_seconds = (engine.cpu_seconds() - used) / (TIMES + 1)
        if isinstance(warehouse, RecordingWarehouse):
            asked.read = await read_for(warehouse, question)
        # What is kept is held against the truth as well.
        later = await _compared(run, warehouse, truth, question, engine)
        if later.differences:
            asked.compared = later
    engine.raw_seconds = await raw_seconds(warehouse, truth, TIMES)
    slowest = max(engine.asked, key=lambda one: float(np.median(one.seconds)))
    run.bench.say(
        f"questions: {engine.name} over {engine.rows:,} rows: slowest {slowest.compared.question.name} "
        f"{np.median(slowest.seconds) * 1000:.0f} ms"
    )


def by_name(engine: Engine) -> dict[str, list[Asked]]:
    """Return what was asked by the questions' names."""
    found: dict[str, list[Asked]] = {}
    for one in engine.asked:
        found.setdefault(one.compared.question.name, []).append(one)
    return found
