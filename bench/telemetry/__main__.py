"""``python -m bench.telemetry``: measure events from the edge to the answers, print tables, and write them into docs.

Ends with 0 also when goals do not hold: machines differ, and the tables say which do not. Ends with 1 when something
could not be measured.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from bench.edge.cores import TooFewCores, choose_cores
from bench.edge.figures import Spread
from bench.edge.generators import compiler
from bench.edge.load import LoadFailed
from bench.edge.probe import WrongAnswer
from bench.edge.servers import NotStarted
from bench.edge.site import running_site
from bench.edge.starting import add_options, bench_of, take_place
from bench.markdown import write_section
from bench.telemetry.accepting import GOAL_BATCHES, GOAL_CASE, measure_accepted, measure_waiting
from bench.telemetry.asking import measure_answers
from bench.telemetry.draining import measure_draining
from bench.telemetry.outage import measure_outage
from bench.telemetry.report import QUIET_LOAD, Results, preface, render
from bench.telemetry.seeing import measure_seeing
from bench.telemetry.settings import ARRIVALS, DAYS, ENGINES, EVENTS, OUTAGE_SECONDS, Run
from telemetry.warehouse import QueryFailed, WarehouseUnavailable
from tests.components import find_program

ROUNDS = 3
CASES = ("accepted", "waiting", "draining", "seeing", "outage", "questions")
ACCEPTED, WAITING, DRAINING, SEEING, OUTAGE, QUESTIONS = CASES
MARK = "telemetry figures"
QUESTIONS_MARK = "question figures"
"""Of a run that asks alone: so many events take so long that the other figures need not be measured with them."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code."""
    options = arguments(words)
    missing = [name for name in ("wrk", "clickhouse-server") if find_program(name) is None]
    if missing or compiler() is None:
        print(f"error: {', '.join(missing) or 'a C compiler'} is not installed; `make bench-telemetry` as root does it")
        return 2
    try:
        cores = choose_cores()
    except TooFewCores as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    take_place(cores)
    # What the product tells of its own goes to standard output, where the tables are to stand alone.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    began, load = time.monotonic(), os.getloadavg()[0]
    cases = options.cases.split() or list(CASES)
    alone = cases == [QUESTIONS]
    with tempfile.TemporaryDirectory(prefix="skafos-bench-", dir=options.folder) as name:
        folder = Path(name)
        try:
            with running_site(folder) as site:
                bench = bench_of(options, site, folder, cores, began)
                engines = tuple(options.engines.split())
                run = Run(bench, options.events, options.days, options.outage, options.arrivals, engines)
                results = measure(run, cases)
                results.quiet = load <= QUIET_LOAD
        except (LoadFailed, NotStarted, WrongAnswer, QueryFailed, WarehouseUnavailable) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        text = render(results, preface(folder, 0 if alone else options.rounds, options.seconds, load))
        print(text, flush=True)  # before gigabytes of files are removed
        if options.write:
            write_section(options.write / "performance.md", QUESTIONS_MARK if alone else MARK, text)
    return 0


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench.telemetry", description=__doc__)
    parser.add_argument("--cases", default="", help=f"some of: {' '.join(CASES)}")
    add_options(parser, ROUNDS)
    parser.add_argument("--events", type=int, default=EVENTS, help="events of the population that is asked about")
    parser.add_argument("--days", type=int, default=DAYS, help="that they are spread over")
    parser.add_argument("--engines", default=" ".join(ENGINES), help=f"some of: {' '.join(ENGINES)}")
    parser.add_argument("--outage", type=float, default=OUTAGE_SECONDS, help="seconds that ClickHouse is away")
    parser.add_argument("--arrivals", type=int, default=ARRIVALS, help="events per second meanwhile")
    parser.add_argument("--folder", type=Path, help="where files are made: spool, tables")
    options = parser.parse_args(words)
    if unknown := set(options.cases.split()) - set(CASES) or set(options.engines.split()) - set(ENGINES):
        parser.error(f"there is no {min(unknown)}")
    if min(options.rounds, options.seconds, options.events, options.arrivals, options.days) < 1:
        parser.error("numbers are at least 1")
    return options


def measure(run: Run, cases: Sequence[str]) -> Results:
    """Run the cases and return what they gave."""
    results = Results()
    if ACCEPTED in cases:
        results.accepted = measure_accepted(run.bench)
    if WAITING in cases:
        results.waiting = measure_waiting(run.bench, accepted_rate(results))
    if DRAINING in cases:
        results.drained = measure_draining(run)
    if SEEING in cases:
        results.seeing = measure_seeing(run)
    if OUTAGE in cases:
        results.outage = measure_outage(run)
    if QUESTIONS in cases:
        results.answers = measure_answers(run)
    results.left_out += run.bench.left_out()
    return results


def accepted_rate(results: Results) -> float:
    """Return the batches per second that were accepted, or the goal when that was not measured."""
    for result in results.accepted:
        if result.case.name == GOAL_CASE:
            return Spread.of([one.rate for one in result.samples["edge"]]).median
    return GOAL_BATCHES


if __name__ == "__main__":
    sys.exit(main())
