"""Accepting events: how many a second are durable, and how much later than others a durable answer comes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from bench.edge.cases import RATE_CASES, conditional, events_varied
from bench.edge.cores import on
from bench.edge.measuring import Bench, Throughput, asked_at, etag_of, measure_rate
from bench.edge.openloop import Latencies, run_openloop
from bench.edge.shipped import shipped_at_once
from bench.edge.site import BATCH_EVENTS
from bench.edge.worker import edge_worker

NAMES: Final = ("events", "events-varied", "events-512", "ndjson")
GOAL_CASE: Final = "events-varied"
GOAL_SHARE: Final = 1 / 3
WARM_SECONDS: Final = 3.0
"""The first segments are new files; from then on they are written over, as by an edge that has run for a while."""
"""Of the rate that was accepted, or of the goal where that is less: latency is told below the knee."""
GOAL_BATCHES: Final = 20_000.0
FSYNC, IN_MEMORY, NOT_MODIFIED = "fsync", "os", "304"


def measure_accepted(bench: Bench) -> list[Throughput]:
    """Measure the edge's cases of events."""
    return [measure_rate(bench, case) for case in RATE_CASES if case.name in NAMES]


def measure_waiting(bench: Bench, batches_per_second: float) -> dict[str, list[Latencies]]:
    """Measure answers in the open loop, a third of a rate: batches synced to the disk, batches left to the system, and
    checks (304), which wait for nothing.

    Args:
        batches_per_second: what the edge accepts on one core.
    """
    rate = min(batches_per_second, GOAL_BATCHES) * GOAL_SHARE
    results: dict[str, list[Latencies]] = {FSYNC: [], IN_MEMORY: [], NOT_MODIFIED: []}
    for number in bench.turns("waiting for a commit"):
        for kind, seen in results.items():
            seen.append(_wait(bench, kind, rate))
            bench.say(
                f"waiting for a commit, round {number + 1}: {kind} at {rate * BATCH_EVENTS:,.0f} events/s: "
                f"median {seen[-1].median:.0f}, 99 % {seen[-1].p99:.0f} µs (sent late by {seen[-1].late_p99:.0f})"
            )
    return results


def _wait(bench: Bench, kind: str, rate: float) -> Latencies:
    more = {"SKAFOS_SPOOL_DURABILITY": IN_MEMORY if kind == IN_MEMORY else FSYNC}
    with ExitStack() as stack:
        with on(bench.cores.server):
            server = stack.enter_context(edge_worker(bench.site, bench.new_folder("edge"), more=more))
        stack.enter_context(shipped_at_once(bench.folder))
        asking = conditional if kind == NOT_MODIFIED else events_varied
        ((_, sent, status),) = asking(bench.site, etag_of(bench.site, server), bench.word()).examples
        asked = replace(asked_at(rate, server, sent, status), warm=WARM_SECONDS)
        return run_openloop(bench.generator, asked, bench.seconds)
