"""A population's events go the whole way, from batches in a spool through the shipper; every answer is what was true.

The population repeats itself (batches and events come twice, within a batch, hours later, on another day), is late, has
wrong clocks and types that nobody knows; `bench.telemetry.truth` counted it while it was generated.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.telemetry.comparing import all_questions, compare
from bench.telemetry.copying import copy_day
from bench.telemetry.expected import installations
from bench.telemetry.filling import fill
from bench.telemetry.fleet import Fleet
from bench.telemetry.rows import ACTIVATE, Rows
from bench.telemetry.spooling import spool_rows
from bench.telemetry.truth import Truth
from telemetry.shipper import Shipper
from telemetry.warehouse import Warehouse
from tests.telemetry.warehouses import server, warehouse

__all__ = ["server", "warehouse"]

DEVICES, APPS, DAYS = 600, 2, 10
FIRST_DAY = datetime.now(UTC).date() - timedelta(days=DAYS)
"""Raw events expire after 90 days, so the window ends yesterday."""
DRAIN_SECONDS = 120
QUESTIONS = {
    *("adoption_curve", "adoption_curve_by_hour", "active_devices", "installations", "version_mix", "funnel"),
    *("failure_rates", "download_times", "bytes_sent", "time_to_adopt", "stuck_devices"),
}
# All that a row says, the server's own columns included; sums of hashes do not depend on the order.
HASHES = """
SELECT count() AS events, sum(cityHash64(organization_id, application, environment, model, type, device_id,
    toString(event_id), day, toUInt32(received_at), arrival, toUInt32(occurred_at), ifNull(version, 77),
    ifNull(from_version, 77), ifNull(bytes, 77), ifNull(full_bytes, 77), ifNull(duration_ms, 77), encoding, error, os,
    os_version, device_model, app_version, locale)) AS hashes
FROM raw_events FINAL
"""


async def shipped(fleet: Fleet, days: list[Rows], warehouse: Warehouse, root: Path) -> None:
    """Send rows the product's way."""
    await spool_rows(days, fleet.populations, root / "edge-0")
    assert await Shipper(root, warehouse).drain(DRAIN_SECONDS)


async def test_every_answer_is_what_was_true(warehouse: Warehouse, tmp_path: Path) -> None:
    fleet = Fleet(DEVICES, FIRST_DAY, DAYS, APPS)
    truth = Truth(fleet.subject)
    await shipped(fleet, list(truth.counting(fleet.days())), warehouse, tmp_path / "spool")
    compared = [await compare(warehouse, truth, question) for question in all_questions(truth)]
    wrong = {(one.question.name, one.question.about): one.differences[:3] for one in compared if one.differences}
    assert not wrong
    assert all(one.figures for one in compared), "an answer without a figure shows nothing"
    assert {one.question.name for one in compared} == QUESTIONS


async def test_an_answer_that_is_wrong_is_found(warehouse: Warehouse, tmp_path: Path) -> None:
    fleet = Fleet(40, FIRST_DAY, DAYS, 1)
    truth = Truth(fleet.subject)
    days = [rows.take(rows["kind"] != ACTIVATE) for rows in truth.counting(fleet.days())]
    await shipped(fleet, days, warehouse, tmp_path / "spool")
    (question,) = [one for one in all_questions(truth) if one.name == "installations"]
    told = {one.path: one for one in (await compare(warehouse, truth, question)).differences}
    assert told["devices"].told == 0
    assert told["devices"].true == installations(truth)["devices"] > 0
    assert told["versions[2].devices"].told is None


async def test_rows_that_are_filled_in_are_those_that_are_shipped(warehouse: Warehouse, tmp_path: Path) -> None:
    fleet = Fleet(60, FIRST_DAY, DAYS, 2)
    days = list(fleet.days())
    await shipped(fleet, days, warehouse, tmp_path / "spool")
    told = await warehouse.query(HASHES)
    # The same key takes the other's place, so what differs in any column would change the sum.
    await fill(warehouse, days, fleet.populations)
    assert await warehouse.query(HASHES) == told
    assert int(told[0]["events"]) == sum(int(rows["last"].sum()) for rows in days)


async def test_a_copied_application_has_what_the_drawn_one_has(warehouse: Warehouse) -> None:
    fleet = Fleet(20, FIRST_DAY, 1, 2, copies=3)
    filled = await fill(warehouse, fleet.days(), fleet.populations)
    made = await copy_day(warehouse, fleet.copied, fleet.copies, FIRST_DAY)

    told = await warehouse.query(
        "SELECT organization_id, application_id, count() AS events, "
        "sum(cityHash64(toString(event_id), arrival)) AS hash "
        "FROM raw_events GROUP BY organization_id, application_id ORDER BY application_id"
    )
    labels = {(one.organization_id, one.application_id) for one in fleet.copies}
    found = {(row["organization_id"], row["application_id"]) for row in told}
    assert found == {("org-1", "app-1"), ("org-2", "app-2")} | labels
    assert len({(row["events"], row["hash"]) for row in told if row["application_id"] != "app-1"}) == 1
    assert sum(int(row["events"]) for row in told) == filled + made
    (states,) = await warehouse.query("SELECT uniqExact(application_id) AS n FROM device_states")
    assert int(states["n"]) == fleet.apps == 5
