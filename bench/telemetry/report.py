"""What was measured, as Markdown: the goals first, then what they are made of."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.edge.cases import Goal as CaseGoal
from bench.edge.figures import Spread, percentile, ratio_in_rounds
from bench.edge.machine import machine
from bench.edge.measuring import Throughput
from bench.edge.openloop import Latencies
from bench.edge.report import throughput_table
from bench.edge.site import BATCH_EVENTS
from bench.markdown import table, verdict
from bench.telemetry.accepting import FSYNC, GOAL_CASE, IN_MEMORY, NOT_MODIFIED
from bench.telemetry.asking import Answers, Asked, Engine, by_name
from bench.telemetry.comparing import DEVICES_TOLERANCE, PERCENTILE_TOLERANCE
from bench.telemetry.draining import Drained
from bench.telemetry.outage import CaughtUp
from bench.telemetry.raw import QUESTIONS, RAW

ACCEPTED_GOAL: Final = 400_000
COMMIT_MS_GOAL: Final = 3.0
VISIBLE_SECONDS_GOAL: Final = 2.0
QUESTION_MS_GOAL, RAW_MS_GOAL = 50.0, 500.0
QUIET_LOAD: Final = 0.5
"""What is left of the load average of a machine on which a user has just typed a command."""
UNTOLD: Final = "not told: others were at work"
GOAL_ROWS: Final = 50_000_000
CATCH_UP_GOAL: Final = 3.0
DRAINING_GOALS: Final = {"server": 150_000, "embedded": 100_000}
ENGINE_TITLES: Final = {"server": "Debian's ClickHouse over TCP", "embedded": "the embedded engine, its CPU included"}


@dataclass
class Results:
    """Everything that one run measured; what was not asked for stays empty.

    Args:
        quiet: nobody else was at work on the machine, so that a time that is too long says something.
    """

    accepted: list[Throughput] = field(default_factory=list)
    waiting: dict[str, list[Latencies]] = field(default_factory=dict)
    drained: list[Drained] = field(default_factory=list)
    seeing: list[float] = field(default_factory=list)
    outage: CaughtUp | None = None
    answers: Answers | None = None
    left_out: list[str] = field(default_factory=list)
    quiet: bool = True


def preface(folder: Path, rounds: int, seconds: int, load: float) -> str:
    """Return the date, the machine, the versions and the lengths.

    Args:
        folder: where spool and tables lay.
        rounds, seconds: of the edge's cases; no rounds when none of these was measured.
        load: the machine's load average before.
    """
    others = ": **others were at work, so rates are too low and times too long**" if load > QUIET_LOAD else ""
    driver = f"clickhouse-driver {version('clickhouse-driver')}"
    lengths = f"{rounds} rounds of {seconds} s of the edge's cases; medians" if rounds else "Medians"
    return (
        f"{machine(folder)}. Python {platform.python_version()}, uvloop {version('uvloop')}, {driver}. "
        f"{lengths}, and in parentheses or beside them the least and the greatest. "
        f"Load average before: {load:.1f}{others}."
    )


def render(results: Results, above: str) -> str:
    """Return all tables below what says when, where and how long."""
    notes = "\n".join(f"- Left out: {text}." for text in results.left_out)
    parts = [
        above,
        _goals(results),
        throughput_table([_without_goal(result) for result in results.accepted]),
        _waiting(results.waiting),
        _questions(results.answers),
        notes,
    ]
    return "\n\n".join(part for part in parts if part)


def _without_goal(result: Throughput) -> Throughput:
    """Return a case without its goal, which the first table tells."""
    return replace(result, case=replace(result.case, goal=CaseGoal()))


def _goals(results: Results) -> str:
    timed = [
        *_accepted_goal(results.accepted),
        *_waiting_goal(results.waiting),
        *_draining_goals(results.drained),
        *_seeing_goal(results.seeing),
        *_answer_goals(results.answers),
        *_outage_goal(results.outage),
    ]
    exact = [*_truth_goals(results.answers), *_lost_goal(results.outage)]
    rows = [[*cells, verdict(holds) if holds or results.quiet else UNTOLD] for *cells, holds in timed]
    rows += [[*cells, verdict(holds)] for *cells, holds in exact]
    return table(("goal", "bound", "measured", ""), rows)


Goal = tuple[str, str, str, bool | None]


def _accepted_goal(accepted: Sequence[Throughput]) -> Iterator[Goal]:
    for result in accepted:
        if result.case.name == GOAL_CASE:
            samples = result.samples["edge"]
            rate = Spread.of([one.rate * BATCH_EVENTS for one in samples])
            cost = Spread.of([one.cost for one in samples])
            yield (
                "events accepted per second, durable, one edge core, batches of 20, 64 connections, varied bodies",
                f"≥ {ACCEPTED_GOAL:,}",
                f"{rate.median:,.0f} ({rate.least:,.0f} to {rate.greatest:,.0f}), {cost.median:.1f} µs of CPU a batch",
                rate.median >= ACCEPTED_GOAL,
            )


def _waiting_goal(waiting: Mapping[str, Sequence[Latencies]]) -> Iterator[Goal]:
    if not waiting:
        return
    added = Spread.of(
        [(ours.p99 - other.p99) / 1000 for ours, other in zip(waiting[FSYNC], waiting[NOT_MODIFIED], strict=False)]
    )
    rate = waiting[FSYNC][0].rate * BATCH_EVENTS
    yield (
        f"latency that the group commit adds at {rate:,.0f} events per second, 99 %",
        f"≤ {COMMIT_MS_GOAL:.0f} ms",
        f"{added.median:.2f} ms ({added.least:.2f} to {added.greatest:.2f})",
        added.median <= COMMIT_MS_GOAL,
    )


def _draining_goals(drained: Sequence[Drained]) -> Iterator[Goal]:
    for one in drained:
        rate = Spread.of([one.events / seconds for seconds in one.seconds])
        cost = Spread.of([seconds / one.events * 1e6 for seconds in one.cpu_seconds])
        goal = DRAINING_GOALS[one.engine]
        yield (
            f"spool to {ENGINE_TITLES[one.engine]}, all views, one shipper, events per second",
            f"≥ {goal:,}",
            f"{rate.median:,.0f} ({rate.least:,.0f} to {rate.greatest:,.0f}), {cost.median:.1f} µs of CPU an event",
            rate.median >= goal,
        )


def _seeing_goal(seeing: Sequence[float]) -> Iterator[Goal]:
    if seeing:
        ordered = sorted(seeing)
        p95 = percentile(ordered, 0.95)
        yield (
            "event accepted to visible in adoption, 95 %",
            f"≤ {VISIBLE_SECONDS_GOAL:.0f} s",
            f"{p95:.2f} s (median {percentile(ordered, 0.5):.2f}, slowest of {len(ordered)} {ordered[-1]:.2f})",
            p95 <= VISIBLE_SECONDS_GOAL,
        )


def _answer_goals(answers: Answers | None) -> Iterator[Goal]:
    for engine in answers.engines if answers else ():
        about = f"{engine.rows / 1e6:,.1f} million rows, ClickHouse {engine.version}"
        slowest = max(engine.asked, key=_median_ms)
        # The goal is stated for a number of rows; fewer show nothing about it.
        enough = engine.rows >= GOAL_ROWS
        within = _median_ms(slowest) <= QUESTION_MS_GOAL
        yield (
            f"each question, {about}, warm",
            f"≤ {QUESTION_MS_GOAL:.0f} ms at {GOAL_ROWS / 1e6:.0f} million",
            f"slowest {_median_ms(slowest):.0f} ms ({slowest.compared.question.name})",
            within if enough or not within else None,
        )
        name, raw = max(_raw_ms(engine, QUESTIONS).items(), key=lambda one: one[1])
        yield (
            f"each question asked of raw events, {about}",
            f"≤ {RAW_MS_GOAL:.0f} ms at {GOAL_ROWS / 1e6:.0f} million",
            f"slowest {raw:.0f} ms ({name})",
            raw <= RAW_MS_GOAL if enough or raw > RAW_MS_GOAL else None,
        )


def _truth_goals(answers: Answers | None) -> Iterator[Goal]:
    yield from map(_truth_goal, answers.engines if answers else ())


def _truth_goal(engine: Engine) -> Goal:
    wrong = sum(len(one.compared.differences) for one in engine.asked)
    figures = sum(one.compared.figures for one in engine.asked)
    devices = max(one.compared.worst_devices for one in engine.asked)
    percentiles = max(one.compared.worst_percentile for one in engine.asked)
    return (
        f"answers against the truth, ClickHouse {engine.version}",
        f"counts exact, unique devices within {DEVICES_TOLERANCE:.0%}, percentiles within {PERCENTILE_TOLERANCE:.0%}",
        f"{wrong} of {figures:,} figures differ; unique devices up to {devices:.2%} off, percentiles {percentiles:.2%}",
        wrong == 0,
    )


def _outage_goal(outage: CaughtUp | None) -> Iterator[Goal]:
    if outage is None:
        return
    told = "not caught up" if outage.ratio is None else f"{outage.ratio:.1f} times"
    yield (
        f"ClickHouse away for {outage.away_seconds:.0f} s at {outage.arrivals:,.0f} events per second: catching up",
        f"≥ {CATCH_UP_GOAL:.0f} times the arrivals",
        f"{told}, {outage.first_seconds:.1f} s after it was back",
        outage.ratio is not None and outage.ratio >= CATCH_UP_GOAL,
    )


def _lost_goal(outage: CaughtUp | None) -> Iterator[Goal]:
    if outage is None:
        return
    lost = outage.accepted - outage.found
    yield (
        "ClickHouse away: events lost, or counted twice",
        "0",
        f"{lost:,} of {outage.accepted:,}",
        lost == 0,
    )


def _waiting(waiting: Mapping[str, Sequence[Latencies]]) -> str:
    titles = {
        FSYNC: "20 events, on the disk (`fsync`)",
        IN_MEMORY: "20 events, with the system (`os`)",
        NOT_MODIFIED: "304, which waits for nothing",
    }
    rows = []
    for kind, seen in waiting.items():
        late = Spread.of([one.late_p99 for one in seen])
        percentiles = [Spread.of([getattr(one, name) for one in seen]) for name in ("median", "p99", "p999")]
        ratio = ratio_in_rounds([one.p99 for one in seen], [one.p99 for one in waiting[NOT_MODIFIED]][: len(seen)])
        cells = [f"{one.median:,.0f} µs ({one.least:,.0f} to {one.greatest:,.0f})" for one in percentiles]
        rows.append([titles[kind], f"{seen[0].rate:,.0f}", *cells, f"{late.median:,.0f} µs", f"{ratio.median:.1f}"])
    head = ("open loop", "requests per second", "median", "99 %", "99.9 %", "sent late (99 %)", "99 % of the 304's")
    return table(head, rows)


def _questions(answers: Answers | None) -> str:
    if answers is None:
        return ""
    about = (
        f"{answers.events:,} events of the model that is asked about, among those of {answers.apps} apps with "
        f"{answers.devices:,} devices in {answers.days} days; made and counted in {answers.generating_seconds:.0f} s"
    )
    filled = ", ".join(
        f"{one.version} took {one.rows / one.filling_seconds:,.0f} rows per second" for one in answers.engines
    )
    grouped = [by_name(engine) for engine in answers.engines]
    rows = [[name, *(cell for group in grouped for cell in _question_cells(group[name]))] for name in grouped[0]]
    head = ["question", *(cell for one in answers.engines for cell in _head(one))]
    raw = [_raw_ms(engine, RAW) for engine in answers.engines]
    raw_rows = [[name, *(f"{each[name]:.1f} ms" for each in raw)] for name in raw[0]]
    raw_head = ["over raw events", *(one.version for one in answers.engines)]
    return f"{about}. Written past the spool, {filled}.\n\n{table(head, rows)}\n\n{table(raw_head, raw_rows)}"


def _head(engine: Engine) -> tuple[str, ...]:
    read = ("read",) if any(one.read for one in engine.asked) else ()
    return (engine.version, "CPU", *read, "all counted", "differ")


def _raw_ms(engine: Engine, names: Sequence[str]) -> dict[str, float]:
    return {name: statistics.median(engine.raw_seconds[name]) * 1000 for name in names}


def _question_cells(asked: Sequence[Asked]) -> tuple[str, ...]:
    """Return the slowest variant's median and spread, CPU and reads, the median when all is counted, what differs."""
    slowest = max(asked, key=_median_ms)
    spread = Spread.of([second * 1000 for second in slowest.seconds])
    counted = max(statistics.median(one.counted) for one in asked) * 1000
    differ = sum(len(one.compared.differences) for one in asked)
    figures = sum(one.compared.figures for one in asked)
    told = f"{spread.median:.1f} ms ({spread.least:.1f} to {spread.greatest:.1f})"
    cpu = f"{slowest.cpu_seconds * 1000:.0f} ms"
    read = [f"{slowest.read.rows:,} rows, {slowest.read.bytes / 1e6:.1f} MB"] if slowest.read else []
    return told, cpu, *read, f"{counted:.1f} ms", f"**{differ}** of {figures:,}" if differ else f"0 of {figures:,}"


def _median_ms(asked: Asked) -> float:
    return statistics.median(asked.seconds) * 1000
