"""The benchmark of telemetry: its load loses count of nothing, and its figures become a table of goals."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.edge.cases import RATE_CASES
from bench.edge.figures import Sample
from bench.edge.load import LoadFailed
from bench.edge.measuring import Throughput
from bench.edge.openloop import Latencies
from bench.edge.site import BATCH_EVENTS, Site
from bench.edge.worker import edge_worker
from bench.telemetry.__main__ import accepted_rate, arguments
from bench.telemetry.accepting import GOAL_BATCHES
from bench.telemetry.asking import Answers, Asked, Engine
from bench.telemetry.comparing import Compared, Difference, Question, deviation, figures
from bench.telemetry.expected import Percentile
from bench.telemetry.outage import CaughtUp
from bench.telemetry.posting import Posting
from bench.telemetry.raw import QUESTIONS, TYPED
from bench.telemetry.reading import Read
from bench.telemetry.report import GOAL_ROWS, Results, preface, render
from telemetry.events import decode_events
from telemetry.queries import Reach, TimeToAdopt, VersionShare
from telemetry.segment import decode_segment
from tests.bench.conftest import row
from tests.telemetry.waiting import until

VARIED = next(case for case in RATE_CASES if case.name == "events-varied")
OUTAGE = CaughtUp(15.0, 1.0, 8.0, 20_000.0, 600_000, 600_000)


def waited(p99: float) -> Latencies:
    return Latencies(rate=6_000, median=100, p99=p99, p999=2 * p99, late_p99=5, answered=1)


def engine(rows: int, seconds: float, *differences: Difference) -> Engine:
    async def ask(_: object) -> object:
        return ()

    question = Question("funnel", "all days", ask, lambda _: ())
    compared = Compared(question, 40, differences, 0.004, 0.01)
    return Engine(
        "server",
        "18.16.1",
        rows,
        10.0,
        [Asked(compared, [3 * seconds] * 3, [seconds] * 3, 0.005, Read(8_192, 250_000))],
        {name: [(3 if name == "funnel" else 2) * seconds] for name in QUESTIONS} | {name: [1.0] for name in TYPED},
    )


def answers(*engines: Engine) -> Answers:
    return Answers(devices=9_000, events=250_000, apps=12, days=30, generating_seconds=6, engines=engines)


async def test_what_a_load_says_was_accepted_is_in_the_spool_each_event_once(site: Site, tmp_path: Path) -> None:
    with edge_worker(site, tmp_path) as edge:
        bodies = site.events_varied.read_bytes().splitlines()[:3]
        posting = Posting(edge.address, f"{site.environment_path}/events", bodies, rate=200)
        load = asyncio.create_task(posting.run())
        await until(lambda: posting.accepted >= 20)
        posting.stop()
        await load
    found = [
        event.event_id
        for segment in (tmp_path / "spool").rglob("*.ready")
        for record in decode_segment(segment.read_bytes()).records
        for event in decode_events(record.events)
    ]
    assert len(found) == len(set(found)) == posting.accepted * BATCH_EVENTS


async def test_a_load_that_is_not_accepted_fails(site: Site, tmp_path: Path) -> None:
    with edge_worker(site, tmp_path) as edge:
        posting = Posting(edge.address, f"{site.environment_path}/events", [b"no batch"], rate=200)
        with pytest.raises(LoadFailed, match="400"):
            await posting.run()


def test_goals_that_hold_and_goals_that_do_not_are_told_apart() -> None:
    good, bad = ([Sample(rate, 40.0, 0.2)] for rate in (21_000.0, 12_000.0))
    waiting = {"fsync": [waited(3_500)], "os": [waited(900)], "304": [waited(600)]}
    text = render(
        Results(accepted=[Throughput(VARIED, {"edge": good}, {})], waiting=waiting, seeing=[1.0, 2.5], outage=OUTAGE),
        "",
    )
    assert row(text, "≥ 400,000").endswith("| 420,000 (420,000 to 420,000), 40.0 µs of CPU a batch | holds |")
    assert row(text, "group commit").endswith("| ≤ 3 ms | 2.90 ms (2.90 to 2.90) | holds |")
    assert row(text, "visible in adoption").endswith("2.50) | **does not hold** |")
    assert row(text, "catching up").endswith("| 3.0 times, 1.0 s after it was back | holds |")
    assert row(text, "counted twice").endswith("| 0 | 0 of 600,000 | holds |")
    text = render(Results(accepted=[Throughput(VARIED, {"edge": bad}, {})], outage=replace(OUTAGE, found=599_980)), "")
    assert row(text, "≥ 400,000").endswith("**does not hold** |")
    assert row(text, "counted twice").endswith("| 0 | 20 of 600,000 | **does not hold** |")


def test_a_machine_on_which_others_work_is_told(tmp_path: Path) -> None:
    assert preface(tmp_path, 3, 2, 0.2).endswith("Load average before: 0.2.")
    assert "others were at work" in preface(tmp_path, 3, 2, 7.5)
    assert "the edge's cases" not in preface(tmp_path, 0, 2, 0.2)
    slow = replace(OUTAGE, catching_seconds=60.0, found=7)
    text = render(Results(outage=slow, quiet=False), "")
    assert row(text, "catching up").endswith("| not told: others were at work |")
    assert row(text, "counted twice").endswith("| **does not hold** |")
    assert row(render(Results(outage=OUTAGE, quiet=False), ""), "catching up").endswith("| holds |")


def test_an_outage_that_was_never_made_up_for_does_not_hold() -> None:
    text = render(Results(outage=replace(OUTAGE, catching_seconds=None)), "")
    assert row(text, "catching up").endswith("not caught up, 1.0 s after it was back | **does not hold** |")


def test_few_rows_say_nothing_about_a_goal_for_many_unless_they_are_slow_already() -> None:
    text = render(Results(answers=answers(engine(3_000_000, 0.004))), "")
    assert row(text, "each question, ").endswith("slowest 4 ms (funnel) |  |")
    assert row(text, "asked of raw events").endswith("slowest 12 ms (funnel) |  |"), "what people type has no goal"
    text = render(Results(answers=answers(engine(3_000_000, 0.4))), "")
    assert row(text, "each question, ").endswith("**does not hold** |")
    assert row(text, "asked of raw events").endswith("**does not hold** |")
    text = render(Results(answers=answers(engine(GOAL_ROWS, 0.04))), "")
    assert row(text, "each question, ").endswith("| holds |")
    assert row(text, "asked of raw events").endswith("| holds |")


def test_a_figure_that_differs_from_the_truth_is_counted() -> None:
    text = render(Results(answers=answers(engine(3_000_000, 0.004, Difference("[2].tried_devices", 3, 4)))), "")
    told = "1 of 40 figures differ; unique devices up to 0.40% off, percentiles 1.00%"
    assert told in row(text, "answers against the truth")
    assert row(text, "| funnel |", "8,192 rows").endswith(
        "| 4.0 ms (4.0 to 4.0) | 5 ms | 8,192 rows, 0.2 MB | 12.0 ms | **1** of 40 |"
    )
    assert row(text, "| typed: errors by version |").endswith("| 1000.0 ms |")


def test_the_rate_of_what_was_not_measured_is_the_goal() -> None:
    assert accepted_rate(Results()) == GOAL_BATCHES
    measured = Throughput(VARIED, {"edge": [Sample(9_000, 40.0, 0.2)]}, {})
    assert accepted_rate(Results(accepted=[measured])) == 9_000


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--cases", "waiting everything"])
    assert "there is no everything" in capsys.readouterr().err


def test_answers_are_compared_figure_by_figure_whatever_their_order() -> None:
    shares = (VersionShare(2, 3, 0.75), VersionShare(None, 1, 0.25))
    assert dict(figures(shares)) == dict(figures(shares[::-1]))
    assert dict(figures(shares))["[None].devices"] == 1
    moment = datetime(2026, 3, 2, tzinfo=UTC)
    told = dict(figures(TimeToAdopt(2, moment, 9, 8, (Reach(0.5, moment, 0), Reach(0.9, None, None)))))
    assert told["reached[0.9].seconds"] is None
    assert "deployed_at" not in told


def test_a_figure_is_off_by_a_share_of_the_true_one() -> None:
    assert deviation(99, 100) == pytest.approx(0.01)
    assert deviation(0.0, 0) == 0
    assert deviation("a", "b") == deviation(None, 3) == deviation(3, None) == float("inf")
    around = Percentile(100.0, 98.0, 103.0)
    assert deviation(98.5, around) == deviation(103, around) == 0
    assert deviation(105, around) == pytest.approx(0.02)
    assert deviation(None, around) == float("inf")
