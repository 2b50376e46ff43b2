"""The questions as the benchmark asks them of raw events: they tell what the tables that are made for them tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from bench.telemetry.comparing import HOURS, STUCK_AFTER, STUCK_DAYS, subject_of
from bench.telemetry.filling import fill
from bench.telemetry.fleet import Fleet
from bench.telemetry.raw import QUESTIONS, RAW, ask_raw, raw_seconds
from bench.telemetry.rows import Rows
from bench.telemetry.truth import Truth
from telemetry import queries
from telemetry.queries import STEPS, Days
from telemetry.warehouse import Row, Warehouse
from tests.telemetry.test_population_truth import QUESTIONS as ALL_QUESTIONS
from tests.telemetry.warehouses import server, warehouse

__all__ = ["server", "warehouse"]

DEVICES, DAYS = 400, 10
FIRST_DAY = datetime.now(UTC).date() - timedelta(days=DAYS)
WINDOW = Days(FIRST_DAY, FIRST_DAY + timedelta(days=DAYS - 1))
FARTHEST_STEP = {0: 0, 1: 1, 2: 2, 3: 2}
"""By the bits of download (1) and verify (2)."""

Counts = dict[tuple[str, ...], int]


def counts(rows: list[Row], *keys: str, number: str = "devices") -> Counts:
    """Return the sums of a number by some columns."""
    sums: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        sums[tuple(str(row[key]) for key in keys)] += int(row[number])
    return dict(sums)


def once(days: Iterable[Rows]) -> Iterator[Rows]:
    """Yield rows without those of events that came before: of these, what is merged keeps the last delivery alone."""
    known: set[tuple[int, int]] = set()
    for rows in days:
        ids = list(zip(rows["id_high"].tolist(), rows["id_low"].tolist(), strict=True))
        first = {one: place for place, one in reversed(list(enumerate(ids))) if one not in known}
        known |= first.keys()
        yield rows.take(np.array(sorted(first.values()), np.int64))


async def test_raw_events_tell_what_the_tables_tell(warehouse: Warehouse) -> None:
    fleet = Fleet(DEVICES, FIRST_DAY, DAYS, 2)
    truth = Truth(fleet.subject)
    await fill(warehouse, list(once(truth.counting(fleet.days()))), fleet.populations)
    subject, deployment = subject_of(truth), truth.population.deployments[-1]
    version, deployed_at = deployment.version, datetime.fromtimestamp(deployment.at, UTC)
    assert set(QUESTIONS) == ALL_QUESTIONS
    raw = {name: await ask_raw(warehouse, truth, name) for name in QUESTIONS}

    curve = await queries.adoption_curve(warehouse, subject, WINDOW)
    assert counts(raw["adoption_curve"][0], "of_day", "held") == {
        (str(day.day), str(held.version or 0)): held.devices for day in curve for held in day.versions
    }
    hours = await queries.adoption_curve_by_hour(warehouse, subject, deployed_at, truth.now, HOURS)
    assert counts(raw["adoption_curve_by_hour"][0], "of_hour", "held") == {
        (str(int(hour.hour.timestamp()) // 3600), str(held.version or 0)): held.devices
        for hour in hours
        for held in hour.versions
    }
    active = await queries.active_devices(warehouse, subject, WINDOW, "os_version")
    assert counts(raw["active_devices"][0], "of_day", "value") == {
        (str(day.day), value.value): value.devices for day in active for value in day.values
    }
    mix = await queries.version_mix(warehouse, subject, WINDOW)
    assert counts(raw["version_mix"][0], "held") == {(str(held.version or 0),): held.devices for held in mix}
    installed = await queries.installations(warehouse, subject)
    of_versions = {(str(each.version),): each.devices for each in installed.versions}
    assert counts(raw["installations"][0], "activated") == {("0",): installed.devices, **of_versions}

    funnels = await queries.funnel(warehouse, subject, WINDOW)
    for place, step in enumerate(("downloaded", "verified", "activated"), 1):
        came = {(str(each.version),): each.steps[place].devices for each in funnels}
        assert counts(raw["funnel"][0], "version", number=step) == came
    assert counts(raw["funnel"][1], number="checked") == {(): funnels[0].steps[0].devices}

    rates = await queries.failure_rates(warehouse, subject, WINDOW)
    tried, reasons = raw["failure_rates"]
    assert counts(tried, "version", number="tried") == {(str(one.version),): one.tried_devices for one in rates}
    assert counts(tried, "version", number="failed") == {(str(one.version),): one.failed_devices for one in rates}
    for number, name in (("errors", "count"), ("devices", "devices")):
        assert counts(reasons, "version", "error", number=number) == {
            (str(one.version), reason.error): getattr(reason, name) for one in rates for reason in one.reasons
        }

    times = await queries.download_times(warehouse, subject, WINDOW)
    assert times.overall is not None
    percentiles = {int(row["of_version"]): row["percentiles"] for row in raw["download_times"][0]}
    assert percentiles == {one.version or 0: [one.p50_ms, one.p95_ms] for one in (times.overall, *times.versions)}

    sent = await queries.bytes_sent(warehouse, subject, WINDOW)
    (rows,) = raw["bytes_sent"]
    assert counts(rows, "of_day", number="bytes_sent") == {(str(day.day),): day.bytes for day in sent.days}
    whole = {(one.encoding,): one.full_bytes for one in sent.encodings}
    assert counts(rows, "of_encoding", number="bytes_whole") == whole

    adopted = await queries.time_to_adopt(warehouse, subject, version, deployed_at, truth.now)
    assert counts(raw["time_to_adopt"][0], number="adopted") == {(): adopted.adopted_devices}
    assert counts(raw["time_to_adopt"][1], number="active") == {(): adopted.active_devices}
    assert adopted.adopted_devices > 0

    stuck = await queries.stuck_devices(warehouse, subject, version, truth.now, STUCK_AFTER, STUCK_DAYS)
    (rows,) = raw["stuck_devices"]
    steps = [row | {"step": STEPS[FARTHEST_STEP[int(row["came"]) & 3]]} for row in rows]
    assert counts(steps, "step", "last_error") == {(one.step, one.error): one.devices for one in stuck.reasons}
    assert stuck.total > 0


async def test_all_of_them_are_timed(warehouse: Warehouse) -> None:
    fleet = Fleet(20, FIRST_DAY, DAYS, 1)
    truth = Truth(fleet.subject)
    await fill(warehouse, list(truth.counting(fleet.days())), fleet.populations)
    seconds = await raw_seconds(warehouse, truth, 2)
    assert {name: len(taken) for name, taken in seconds.items()} == dict.fromkeys(RAW, 2)
