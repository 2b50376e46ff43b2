"""The questions that decide whether a release goes on, each against a small truth that can be counted by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import kept_figures, migrate
from telemetry.columns import event_columns
from telemetry.migrate import load_migrations
from telemetry.queries import (
    DIMENSIONS,
    MAX_HOURS,
    MAX_REASONS,
    MAX_STUCK_DEVICES,
    MAX_VALUES,
    BytesSent,
    DayBytes,
    Days,
    DownloadTime,
    DownloadTimes,
    EncodingBytes,
    FailureReason,
    FunnelStep,
    Installations,
    ModelName,
    Reach,
    Stuck,
    StuckDevice,
    StuckReason,
    Subject,
    TimeToAdopt,
    ValueDevices,
    VersionDevices,
    VersionShare,
    active_devices,
    adoption_curve,
    adoption_curve_by_hour,
    bytes_sent,
    download_times,
    failure_rates,
    funnel,
    installations,
    last_arrival,
    last_days,
    stuck_devices,
    time_to_adopt,
    version_mix,
    wilson,
)
from telemetry.segment import Record
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.warehouses import embedded, server, url_of, warehouse

__all__ = ["embedded", "server", "warehouse"]  # fixtures

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NOW = NOON + 3 * HOUR
WEEK = last_days(7, NOW)
FACES = Subject("org-1", "app-1", "prod", [ModelName("faces")])


async def tell(warehouse: Warehouse, *records: Record, attempt: str = "first") -> None:
    """Insert the records, each on its own."""
    for place, one in enumerate(records):
        await warehouse.insert_events(event_columns([one]), f"{attempt}-{place}")


def update(device: str, version: int, held: int, *kinds: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of an update, as far as it came."""
    return [event(kind, device, version=version, from_version=held, **fields) for kind in kinds]


def shares(*counts: tuple[int | None, int]) -> tuple[VersionShare, ...]:
    total = sum(devices for _, devices in counts)
    return tuple(VersionShare(version, devices, devices / total) for version, devices in counts)


# --- who holds what ---------------------------------------------------------------------------------------------------


async def test_the_curve_by_hour_counts_each_device_once_an_hour_for_what_it_held_last(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        record(event("check", "early", version=1), at=NOON - HOUR),
        record(event("check", "a", version=1), event("check", "b", version=1), event("verify", "new", version=2)),
        record(*update("a", 2, 1, "download", "verify", "activate"), at=NOON + timedelta(minutes=10)),
        record(event("verify", "a", version=3), at=NOON + timedelta(minutes=20)),
        record(event("check", "a", version=2), event("check", "b", version=1), at=NOON + 2 * HOUR),
        record(event("check", "late", version=2), at=NOON + 9 * HOUR),
    )

    found = await adoption_curve_by_hour(warehouse, FACES, NOON + timedelta(minutes=5), NOON + 10 * HOUR, hours=9)

    assert [(hour.hour, hour.hours_since_deploy, hour.active_devices, hour.versions) for hour in found] == [
        (NOON, 0, 3, shares((2, 1), (1, 1), (None, 1))),
        (NOON + 2 * HOUR, 2, 2, shares((2, 1), (1, 1))),
    ]


async def test_active_devices_count_once_a_day_by_what_they_said_last(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        record(event("check", "a", os_version="18"), event("check", "b", os_version="18"), at=NOON - DAY),
        record(event("check", "a", os_version="18"), event("check", "b", os_version="18"), event("check", "c")),
        record(event("error", "a", os_version="19"), at=NOON + HOUR),
    )

    before, today = await active_devices(warehouse, FACES, WEEK, "os_version")

    assert (before.day, before.active_devices) == (NOON.date() - DAY, 2)
    assert before.values == (ValueDevices("18", 2, 1.0),)
    assert (today.active_devices, today.other_devices) == (3, 0)
    assert today.values == (ValueDevices("", 1, 1 / 3), ValueDevices("18", 1, 1 / 3), ValueDevices("19", 1, 1 / 3))


async def test_every_dimension_can_be_asked(warehouse: Warehouse) -> None:
    await tell(warehouse, record(event("check", "a") | {name: f"the {name}" for name in DIMENSIONS}))

    for name in DIMENSIONS:
        (day,) = await active_devices(warehouse, FACES, WEEK, name)
        assert day.values == (ValueDevices(f"the {name}", 1, 1.0),)


async def test_values_beyond_a_bound_are_counted_together(embedded: Warehouse) -> None:
    odd = [event("check", f"odd-{number}", locale=f"x-{number}") for number in range(MAX_VALUES + 20)]
    await tell(embedded, record(*odd, event("check", "a", locale="de"), event("check", "b", locale="de")))

    (day,) = await active_devices(embedded, FACES, WEEK, "locale")

    assert (day.values[0], len(day.values)) == (ValueDevices("de", 2, 2 / day.active_devices), MAX_VALUES)
    assert (day.active_devices, day.other_devices) == (MAX_VALUES + 22, 21)


async def test_installations_are_counted_in_total_and_by_version(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        record(event("activate", "a", version=1), event("activate", "b", version=1), at=NOON - 40 * DAY),
        record(event("activate", "a", version=2), event("activate", "a", version=2), event("check", "c", version=2)),
    )

    assert await installations(warehouse, FACES) == Installations(2, (VersionDevices(2, 1), VersionDevices(1, 2)))


# --- how updates go ---------------------------------------------------------------------------------------------------


async def test_the_funnel_tells_where_devices_were_lost(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        record(*(event("check", device, version=1) for device in "abcdefgh")),
        record(*update("a", 2, 1, "download", "verify", "activate")),
        record(event("activate", "b", version=2, from_version=1)),  # was on the device still, or the others were lost
        record(*update("c", 2, 1, "download", "verify")),
        record(*update("d", 2, 1, "download", "error", error="hash")),
        record(*update("e", 2, 1, "download", "error", error="hash")),
        record(*update("f", 2, 1, "error", error="no space")),
        record(*update("g", 3, 1, "download", "verify", "activate")),
    )

    newest, second = await funnel(warehouse, FACES, WEEK)

    assert second.steps == (
        FunnelStep("check", 8, 3),
        FunnelStep("download", 5, 2),
        FunnelStep("verify", 3, 1),
        FunnelStep("activate", 2, 0),
    )
    assert (second.version, second.leak, second.tried_devices, second.failed_devices) == (2, "download", 6, 3)
    assert (newest.version, newest.leak, newest.tried_devices, newest.failed_devices) == (3, None, 1, 0)


async def test_a_window_in_the_past_counts_what_happened_in_it(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        record(event("check", "a", version=1), *update("b", 2, 1, "download"), at=NOON - 5 * DAY),
        record(event("check", "a", version=1), *update("b", 2, 1, "download", "verify", "activate")),
        record(event("check", "c", version=1)),
    )

    (past,) = await funnel(warehouse, FACES, Days(NOON.date() - 6 * DAY, NOON.date() - 2 * DAY))

    assert [(step.step, step.devices) for step in past.steps] == [
        ("check", 2), ("download", 1), ("verify", 0), ("activate", 0),
    ]  # fmt: skip


async def test_failure_rates_have_bounds_and_reasons(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        record(*(one for device in "abcdefgh" for one in update(device, 2, 1, "download", "activate"))),
        record(*update("a", 2, 1, "error", "error", error="encoding_failed: x")),
        record(*update("i", 2, 1, "error", error="no_space: y")),
        record(*update("b", 3, 2, "activate"), event("error", "b", error="about nothing")),
    )

    fine, failing = await failure_rates(warehouse, FACES, WEEK)

    assert (failing.version, failing.tried_devices, failing.failed_devices, failing.errors) == (2, 9, 2, 3)
    assert (failing.rate, (failing.low, failing.high)) == (2 / 9, wilson(2, 9))
    assert failing.reasons == (FailureReason("encoding_failed: x", 2, 1), FailureReason("no_space: y", 1, 1))
    assert (fine.version, fine.rate, fine.low, fine.reasons) == (3, 0.0, 0.0, ())


async def test_reasons_are_listed_up_to_a_bound_and_all_counted(embedded: Warehouse) -> None:
    errors = [event("error", "a", version=1, error=f"error {n}") for n in range(MAX_REASONS + 5)]
    await tell(embedded, record(*errors))

    (rate,) = await failure_rates(embedded, FACES, WEEK)

    assert (len(rate.reasons), rate.errors) == (MAX_REASONS, MAX_REASONS + 5)


async def test_download_times_are_percentiles_of_downloads(warehouse: Warehouse) -> None:
    downloads = [event("download", f"d{ms}", version=2, duration_ms=ms) for ms in range(1, 101)]
    await tell(
        warehouse,
        record(*downloads),
        record(event("download", "x", version=2), event("verify", "x", version=2, duration_ms=9_000)),
        record(event("download", "y", version=1, duration_ms=7)),
    )

    found = await download_times(warehouse, FACES, WEEK)

    assert found == DownloadTimes(
        DownloadTime(None, 101, 50, 95), (DownloadTime(2, 100, 51, 96), DownloadTime(1, 1, 7, 7))
    )


async def test_bytes_are_summed_and_patches_save(warehouse: Warehouse) -> None:
    patch = {"version": 2, "encoding": "skafos-delta", "full_bytes": 1_000}
    await tell(
        warehouse,
        record(event("download", "a", bytes=100) | patch, event("download", "b", bytes=1_100) | patch, at=NOON - DAY),
        record(event("download", "c", bytes=50) | patch, event("download", "d", version=2, encoding="zstd", bytes=900)),
        record(event("download", "e", version=2, encoding="zstd", bytes=400, full_bytes=900)),  # went on with a part
    )

    assert await bytes_sent(warehouse, FACES, WEEK) == BytesSent(
        downloads=5,
        bytes=2_550,
        full_bytes=4_800,
        saved_bytes=1_850,
        days=(
            DayBytes(NOON.date() - DAY, 2, 1_200, 2_000, 900),
            DayBytes(NOON.date(), 3, 1_350, 2_800, 950),
        ),
        encodings=(EncodingBytes("zstd", 2, 1_300, 1_800, 0), EncodingBytes("skafos-delta", 3, 1_250, 3_000, 1_850)),
    )


async def test_the_time_to_adopt_runs_from_the_deploy_to_a_share_of_the_active_devices(warehouse: Warehouse) -> None:
    deployed = NOON - DAY
    await tell(
        warehouse,
        record(event("check", "gone", version=1), at=deployed - 2 * DAY),
        record(event("activate", "early", version=2), at=deployed - DAY),  # from a deploy that was rolled back
        record(event("activate", "gone too", version=2), at=deployed - DAY),
        record(event("activate", "a", version=2), at=deployed + timedelta(seconds=90)),
        record(event("activate", "a", version=2), event("check", "early", version=2), at=deployed + HOUR),
        record(event("activate", "b", version=2), event("check", "c", version=1), at=deployed + 2 * HOUR),
    )

    found = await time_to_adopt(warehouse, FACES, 2, deployed, NOW)

    assert found == TimeToAdopt(
        2,
        deployed,
        active_devices=4,
        adopted_devices=3,
        reached=(
            Reach(0.5, deployed + timedelta(seconds=90), 90),
            Reach(0.9, None, None),
            Reach(0.99, None, None),
        ),
    )


async def test_stuck_devices_are_those_that_tried_and_did_not_get_there(warehouse: Warehouse) -> None:
    first = NOON - 3 * DAY
    await tell(
        warehouse,
        record(*update("full", 2, 1, "download", "error", error="no space"), at=first),
        record(*update("full too", 2, 1, "download", "error", error="no space"), at=first + HOUR),
        record(*update("silent", 2, 1, "verify"), at=first),
        record(*update("done", 2, 1, "error", "activate", error="no space"), at=first),
        record(*update("holds it", 2, 1, "verify"), at=first),  # the event of its activation was lost
        record(*update("gone", 2, 1, "error", error="no space"), at=first - 20 * DAY),
        record(*update("fresh", 2, 1, "error", error="no space")),
        record(event("check", "holds it", version=2), event("check", "silent")),
        record(event("check", "full", version=1), event("error", "full", version=3, error="another version")),
    )

    found = await stuck_devices(warehouse, FACES, 2, NOW, limit=2)

    assert found == Stuck(
        2,
        total=3,
        reasons=(StuckReason("download", "no space", 2), StuckReason("verify", "", 1)),
        devices=(
            StuckDevice("full", 1, first, NOON, "download", "no space"),
            StuckDevice("silent", None, first, NOON, "verify", ""),
        ),
    )


async def test_moments_are_those_of_first_deliveries_whatever_comes_again_and_is_merged(warehouse: Warehouse) -> None:
    first, again = NOON - 2 * DAY, NOON - 2 * DAY + 5 * HOUR
    failed, late = update("stuck", 2, 1, "error", error="e"), update("late", 2, 1, "error")
    done = update("late", 2, 1, "download", "verify", "activate")
    columns = event_columns([record(*failed, *late, at=first), record(*done, at=first + HOUR)])
    await warehouse.insert_events(columns, "both")
    await tell(warehouse, record(*failed, at=again), record(*done, at=again))
    await warehouse.query("OPTIMIZE TABLE attempts FINAL")

    (device,) = (await stuck_devices(warehouse, FACES, 2, NOW)).devices
    half, *_ = (await time_to_adopt(warehouse, FACES, 2, first, NOW)).reached

    assert (device.device_id, device.since, device.last_seen) == ("stuck", first, again)
    assert half == Reach(0.5, first + HOUR, 3600)


# --- whatever is asked ------------------------------------------------------------------------------------------------

Question = Callable[[Warehouse, Subject], Awaitable[Any]]

QUESTIONS: dict[str, Question] = {
    "adoption_curve": lambda w, s: adoption_curve(w, s, WEEK),
    "adoption_curve_by_hour": lambda w, s: adoption_curve_by_hour(w, s, NOON - 2 * DAY, NOW),
    "active_devices": lambda w, s: active_devices(w, s, WEEK, "os"),
    "installations": installations,
    "version_mix": lambda w, s: version_mix(w, s, WEEK),
    "funnel": lambda w, s: funnel(w, s, WEEK),
    "failure_rates": lambda w, s: failure_rates(w, s, WEEK),
    "download_times": lambda w, s: download_times(w, s, WEEK),
    "bytes_sent": lambda w, s: bytes_sent(w, s, WEEK),
    "time_to_adopt": lambda w, s: time_to_adopt(w, s, 2, NOON - 2 * DAY, NOW),
    "stuck_devices": lambda w, s: stuck_devices(w, s, 2, NOW),
}

EMPTY: dict[str, Any] = {
    "adoption_curve": (),
    "adoption_curve_by_hour": (),
    "active_devices": (),
    "installations": Installations(0, ()),
    "version_mix": (),
    "funnel": (),
    "failure_rates": (),
    "download_times": DownloadTimes(None, ()),
    "bytes_sent": BytesSent(0, 0, 0, 0, (), ()),
    "time_to_adopt": TimeToAdopt(
        2, NOON - 2 * DAY, 0, 0, (Reach(0.5, None, None), Reach(0.9, None, None), Reach(0.99, None, None))
    ),
    "stuck_devices": Stuck(2, 0, (), ()),
}

STORY = [
    record(
        *update("a", 2, 1, "download", "verify", "activate", os="ios", bytes=10, full_bytes=20, duration_ms=5),
        *update("b", 2, 1, "download", "error", os="android", bytes=10, full_bytes=20, duration_ms=9, error="e"),
        at=NOON - 2 * DAY,
    ),
    record(event("check", "a", version=2, os="ios"), event("check", "b", version=1, os="android"), at=NOON - DAY),
    record(event("check", "a", version=2, os="ios"), event("check", "b", version=1, os="ios")),
]


async def ask_all(warehouse: Warehouse, subject: Subject = FACES) -> dict[str, Any]:
    return {name: await question(warehouse, subject) for name, question in QUESTIONS.items()}


async def test_no_data_is_an_empty_answer(warehouse: Warehouse) -> None:
    assert await ask_all(warehouse) == EMPTY


async def test_more_that_arrives_is_told_and_of_others_and_of_long_ago_it_is_not(warehouse: Warehouse) -> None:
    nothing = await last_arrival(warehouse, FACES, NOON)
    others = [record(event("check", "a", model="other")), record(event("check", "a"), sender=labels(environment="dev"))]
    await tell(warehouse, *others, record(event("check", "a"), at=NOON - 2 * HOUR))
    assert await last_arrival(warehouse, FACES, NOON) == nothing

    await tell(warehouse, record(event("check", "a")), attempt="second")

    assert await last_arrival(warehouse, FACES, NOON) != nothing


async def test_other_organizations_apps_environments_and_models_do_not_count(warehouse: Warehouse) -> None:
    for place, sender in enumerate(
        [labels(organization_id="org-2"), labels(application_id="app-2"), labels(environment="dev")]
    ):
        elsewhere = [Record(sender, one.received_ms, one.events) for one in STORY]
        await tell(warehouse, *elsewhere, attempt=f"elsewhere-{place}")
    await tell(warehouse, record(event("activate", "a", version=2, model="other"), event("register") | {"model": None}))

    assert await ask_all(warehouse) == EMPTY


async def test_duplicates_and_retried_inserts_change_nothing(warehouse: Warehouse) -> None:
    await tell(warehouse, *STORY)
    once = await ask_all(warehouse)
    await tell(warehouse, *STORY)  # the same inserts again
    await tell(warehouse, *STORY, attempt="second")  # the same events in other inserts
    columns = event_columns([*STORY, *reversed(STORY)])  # twice within one
    await warehouse.insert_events(columns, "third")

    assert all(once[name] != EMPTY[name] for name in QUESTIONS)
    assert await ask_all(warehouse) == once


async def test_a_download_that_is_reported_again_on_another_day_counts_once(warehouse: Warehouse) -> None:
    again = update("a", 2, 1, "download", "error", bytes=10, duration_ms=5, error="e")
    await tell(warehouse, record(*again, at=NOON - 2 * DAY), record(*again, at=NOON))

    assert (await bytes_sent(warehouse, FACES, WEEK)).days == (DayBytes(NOON.date(), 1, 10, 10, 0),)
    assert (await download_times(warehouse, FACES, WEEK)).overall == DownloadTime(None, 1, 5, 5)
    assert [rate.errors for rate in await failure_rates(warehouse, FACES, WEEK)] == [1]


async def test_figures_of_two_models_of_one_name_stay_apart(warehouse: Warehouse) -> None:
    await tell(
        warehouse,
        *STORY,
        record(*update("c", 4, 0, "download", "verify", "activate", os="ios", bytes=1), at=NOON + HOUR),
        record(*update("d", 4, 2, "error", os="ios", error="new"), at=NOON + HOUR),
    )
    new = await ask_all(warehouse, Subject("org-1", "app-1", "prod", [ModelName("faces", first=4, since=NOON.date())]))
    old = await ask_all(warehouse, Subject("org-1", "app-1", "prod", [ModelName("faces", first=1, last=3)]))

    assert [day.versions for day in new["adoption_curve"]] == [shares((4, 1))]
    assert [hour.versions for hour in new["adoption_curve_by_hour"]] == [shares((4, 1))]
    assert [day.active_devices for day in new["active_devices"]] == [1]
    assert new["installations"] == Installations(1, (VersionDevices(4, 1),))
    assert [one.version for one in new["funnel"]] == [one.version for one in new["failure_rates"]] == [4]
    assert (new["bytes_sent"].downloads, old["bytes_sent"].downloads) == (1, 2)
    assert [day.active_devices for day in old["active_devices"]] == [2, 2, 3]
    assert [one.version for one in old["funnel"]] == [one.version for one in old["failure_rates"]] == [2]
    assert (new["stuck_devices"].total, old["stuck_devices"].total) == (0, 1)


@pytest.mark.parametrize("name", QUESTIONS)
async def test_no_answer_is_not_the_same_as_no_data(name: str, tmp_path: Path) -> None:
    nowhere = open_warehouse("clickhouse://127.0.0.1:1/skafos", tmp_path)
    with pytest.raises(WarehouseUnavailable):
        await QUESTIONS[name](nowhere, FACES)
    await nowhere.close()


async def test_windows_without_sense_are_errors(embedded: Warehouse) -> None:
    with pytest.raises(ValueError, match="days"):
        Days(NOON.date(), NOON.date() - DAY)
    with pytest.raises(ValueError, match="days"):
        last_days(0, NOW)
    for hours in (0, MAX_HOURS + 1):
        with pytest.raises(ValueError, match="hours"):
            await adoption_curve_by_hour(embedded, FACES, NOON, NOW, hours)
    with pytest.raises(ValueError, match="future"):
        await time_to_adopt(embedded, FACES, 2, NOW + HOUR, NOW)
    for limit in (-1, MAX_STUCK_DEVICES + 1):
        with pytest.raises(ValueError, match="limit"):
            await stuck_devices(embedded, FACES, 2, NOW, limit=limit)


# --- what is in ClickHouse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["embedded", "server"])
async def test_events_from_before_the_rollups_are_carried_over(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = None
    if engine == "server":
        url = url_of(request.getfixturevalue("server"), "before_the_rollups")
    opened = open_warehouse(url, tmp_path / "clickhouse")
    every = load_migrations()
    monkeypatch.setattr(migrate, "load_migrations", lambda: every[:2])
    await opened.migrate()
    await tell(opened, *STORY)
    monkeypatch.setattr(migrate, "load_migrations", lambda: every)
    await opened.migrate()

    carried = await ask_all(opened)
    await tell(opened, *STORY, attempt="again")

    assert all(carried[name] != EMPTY[name] for name in QUESTIONS)
    assert await ask_all(opened) == carried
    await opened.close()


VIEWS = {
    "adoption_by_day": f"SELECT version, devices WHERE day = '{NOON.date()}'",
    "adoption_by_hour": f"SELECT version, devices WHERE hour = toDateTime('{NOON:%Y-%m-%d %H}:00:00', 'UTC')",
    "active_devices_by_day": f"SELECT value, devices WHERE dimension = 'os' AND day = '{NOON.date()}'",
    "current_devices": "SELECT id, version, last_os, last_error, last_error_version",
    "first_activations": "SELECT device_id, version",
    "update_funnel_by_hour": "SELECT version, tried, downloaded, verified, activated, failed",
    "update_failures_by_day": "SELECT version, error, failures, devices",
    "downloads": "SELECT device_id, downloaded_version, bytes_sent, bytes_whole, took_ms",
    "unfinished_updates": "SELECT device_id, version, step, last_error",
}


async def test_analysts_have_a_view_for_each_family_of_questions(warehouse: Warehouse) -> None:
    await tell(warehouse, *STORY)
    await tell(warehouse, *STORY, attempt="again")

    async def rows(view: str) -> list[tuple[Any, ...]]:
        columns, _, condition = VIEWS[view].partition(" WHERE ")
        found = await warehouse.query(f"{columns} FROM {view} WHERE model = 'faces' AND {condition or '1'}")
        return sorted(tuple(row.values()) for row in found)

    assert {view: await rows(view) for view in VIEWS} == {
        "adoption_by_day": [(1, 1), (2, 1)],
        "adoption_by_hour": [(1, 1), (2, 1)],
        "active_devices_by_day": [("ios", 2)],
        "current_devices": [("a", 2, "ios", "", 0), ("b", 1, "ios", "e", 2)],
        "first_activations": [("a", 2)],
        "update_funnel_by_hour": [(2, 2, 2, 1, 1, 1)],
        "update_failures_by_day": [(2, "e", 1, 1)],
        "downloads": [("a", 2, 10, 20, 5), ("b", 2, 10, 20, 9)],
        "unfinished_updates": [("b", 2, "download", "e")],
    }


# --- figures that are kept --------------------------------------------------------------------------------------------


@pytest.fixture
def kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep figures without waiting for inserts to settle."""
    monkeypatch.setattr(kept_figures, "SETTLED_SECONDS", 0)


async def periods_kept(warehouse: Warehouse) -> list[str]:
    rows = await warehouse.query(
        "SELECT DISTINCT period FROM kept_figures WHERE question = 'os by day' ORDER BY period"
    )
    return [str(row["period"])[:10] for row in rows]


async def test_figures_of_days_that_are_over_are_kept(warehouse: Warehouse, kept_at_once: None) -> None:
    today = datetime.now(UTC)
    await tell(warehouse, *STORY, record(event("check", "a", version=2, os="ios"), at=today))
    days = last_days(7, today)

    first = await active_devices(warehouse, FACES, days, "os")
    kept = await periods_kept(warehouse)
    await warehouse.query("TRUNCATE TABLE device_hours")
    again = await active_devices(warehouse, FACES, days, "os")

    assert kept == [(NOON - ago * DAY).date().isoformat() for ago in (2, 1, 0)]
    assert [day.day for day in first] == [*(day.day for day in again), today.date()]
    assert first[:3] == again


async def test_a_day_for_which_more_arrives_is_counted_anew(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_figures, "SETTLED_SECONDS", 0)
    await tell(warehouse, *STORY)
    before = await active_devices(warehouse, FACES, WEEK, "os")
    assert len(await periods_kept(warehouse)) == 3
    monkeypatch.setattr(kept_figures, "SETTLED_SECONDS", 1)  # the clock may not have moved on
    await tell(warehouse, record(event("check", "late", version=1, os="ios"), at=NOON - DAY), attempt="late")
    after = await active_devices(warehouse, FACES, WEEK, "os")

    assert [day.active_devices for day in before] == [2, 2, 2]
    assert [day.active_devices for day in after] == [2, 3, 2]


async def test_nothing_is_kept_while_an_insert_may_still_be_under_way(warehouse: Warehouse) -> None:
    await tell(warehouse, *STORY)
    await active_devices(warehouse, FACES, WEEK, "os")

    assert await periods_kept(warehouse) == []


@pytest.mark.parametrize(
    ("periods", "runs"),
    [
        ([], []),
        ([0, 3600, 7200], [(0, 10800)]),
        ([0, 7200], [(0, 3600), (7200, 10800)]),
        ([n * 3600 for n in range(125)], [(0, 120 * 3600), (120 * 3600, 125 * 3600)]),
    ],
)
def test_periods_are_counted_in_stretches_of_a_bounded_length(
    periods: Sequence[int], runs: list[tuple[int, int]]
) -> None:
    assert list(kept_figures._runs(periods, 3600)) == runs


# --- confidence -------------------------------------------------------------------------------------------------------


def test_wilsons_interval_agrees_with_a_worked_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilsons_interval_holds_the_rate_and_stays_between_0_and_1(tried: int, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, tried))
    low, high = wilson(failed, tried)

    assert 0 <= low <= failed / tried <= high <= 1
    assert low < high


@pytest.mark.parametrize(("failed", "tried"), [(0, 0), (2, 1), (-1, 5)])
def test_a_rate_of_nothing_has_no_interval(failed: int, tried: int) -> None:
    with pytest.raises(ValueError, match="tried"):
        wilson(failed, tried)
