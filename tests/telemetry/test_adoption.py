"""Adoption: the figures that decide whether a release goes on, against small truths that can be counted by hand."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.adoption import (
    MAX_DAYS,
    MAX_FAILURES,
    AdoptionReport,
    Failure,
    ModelName,
    VersionShare,
    adoption,
    held_now,
)
from telemetry.columns import event_columns
from telemetry.segment import Record
from telemetry.warehouse import Warehouse, WarehouseUnavailable, open_warehouse
from tests.telemetry.samples import NOON, event, labels, record
from tests.telemetry.warehouses import embedded, server, warehouse

__all__ = ["embedded", "server", "warehouse"]  # fixtures

TODAY = NOON.date()
DAY = timedelta(days=1)


FACES = (ModelName("faces"),)


async def report(
    warehouse: Warehouse, *records: Record, days: int = 7, names: Sequence[ModelName] = FACES, **other: str
) -> AdoptionReport:
    """Insert the records, each on its own, and ask about the model of the samples."""
    for place, one in enumerate(records):
        await warehouse.insert_events(event_columns([one]), f"insert-{place}")
    asked = {"organization_id": "org-1", "application_id": "app-1", "environment": "prod"} | other
    return await adoption(warehouse, names=names, days=days, now=NOON + timedelta(hours=3), **asked)


def shares(*counts: tuple[int | None, int]) -> tuple[VersionShare, ...]:
    total = sum(devices for _, devices in counts)
    return tuple(VersionShare(version, devices, devices / total) for version, devices in counts)


async def test_a_device_counts_once_a_day_for_the_version_it_held_last(warehouse: Warehouse) -> None:
    found = await report(
        warehouse,
        record(
            event("check", "a", version=1),
            event("check", "b", version=1),
            event("check", "c", version=1),
            at=NOON - DAY,
        ),
        record(event("check", "a", version=1), event("check", "b", version=1)),
        record(event("activate", "a", version=2, from_version=1), at=NOON + timedelta(hours=1)),
        record(event("check", "a", version=2), at=NOON + timedelta(hours=2)),
    )

    assert [(day.day, day.active_devices, day.versions) for day in found.by_day] == [
        (TODAY - DAY, 3, shares((1, 3))),
        (TODAY, 2, shares((2, 1), (1, 1))),
    ]
    assert found.now == shares((2, 1), (1, 2))
    assert found.installations == 1


async def test_a_device_without_a_version_is_active_and_holds_none(warehouse: Warehouse) -> None:
    found = await report(warehouse, record(event("check", "new"), event("check", "old", version=4)))

    assert found.by_day[0].versions == shares((4, 1), (None, 1))
    assert found.now == shares((4, 1), (None, 1))
    assert found.installations == 0


async def test_an_update_that_fails_leaves_the_device_on_what_it_holds(warehouse: Warehouse) -> None:
    found = await report(
        warehouse,
        record(
            event("check", "a", version=1),
            event("download", "a", version=2, from_version=1),
            event("error", "a", version=2, from_version=1, error="no space"),
            event("error", "a", version=2, from_version=1, error="no space"),
            event("error", "b", version=2, error="hash mismatch"),
        ),
    )

    assert found.now == shares((1, 1), (None, 1))
    assert found.failures == (Failure(2, "no space", 2, 1), Failure(2, "hash mismatch", 1, 1))
    assert found.failures_total == 3


async def test_only_the_asked_organization_application_environment_and_model_count(warehouse: Warehouse) -> None:
    elsewhere = [
        record(
            event("activate", "x", version=9), event("error", "x", error="e"), sender=labels(organization_id="org-2")
        ),
        record(
            event("activate", "x", version=9), event("error", "x", error="e"), sender=labels(application_id="app-2")
        ),
        record(event("activate", "x", version=9), event("error", "x", error="e"), sender=labels(environment="dev")),
        record(event("activate", "x", version=9, model="other"), event("error", "x", error="e", model="other")),
        record(event("register", "x") | {"model": None}),
    ]
    found = await report(warehouse, *elsewhere, record(event("activate", "a", version=1)))

    assert found.by_day[0].versions == found.now == shares((1, 1))
    assert (found.installations, found.failures, found.failures_total) == (1, (), 0)


async def test_days_before_the_window_count_for_installations_alone(warehouse: Warehouse) -> None:
    found = await report(
        warehouse,
        record(event("activate", "gone", version=1), event("error", "gone", error="e"), at=NOON - 10 * DAY),
        record(event("activate", "a", version=2), at=NOON - 6 * DAY),
    )

    assert (found.first_day, found.last_day) == (TODAY - 6 * DAY, TODAY)
    assert [day.day for day in found.by_day] == [TODAY - 6 * DAY]
    assert found.now == shares((2, 1))
    assert (found.installations, found.failures_total) == (2, 0)


async def test_the_servers_clock_rules_and_batches_may_arrive_in_any_order(warehouse: Warehouse) -> None:
    found = await report(
        warehouse,
        record(event("activate", "a", version=2, occurred_at="1970-01-01T00:00:00Z"), at=NOON),
        record(event("check", "a", version=1, occurred_at="2100-01-01T00:00:00Z"), at=NOON - timedelta(hours=1)),
    )

    assert [day.day for day in found.by_day] == [TODAY]
    assert found.now == shares((2, 1))


async def test_nothing_is_counted_twice_when_everything_is_sent_twice(warehouse: Warehouse) -> None:
    records = [
        record(event("check", "a", version=1), event("error", "a", version=2, error="e"), at=NOON - DAY),
        record(event("activate", "a", version=2), event("check", "b", version=1)),
    ]
    once = await report(warehouse, *records)
    for place, one in enumerate(records):
        await warehouse.insert_events(event_columns([one]), f"again-{place}")
    twice = await report(warehouse)

    assert twice == once


async def test_a_model_nobody_asked_about_yet_has_an_empty_report(warehouse: Warehouse) -> None:
    found = await report(warehouse)

    assert found.as_json() == {
        "model": "faces",
        "environment": "prod",
        "first_day": (TODAY - 6 * DAY).isoformat(),
        "last_day": TODAY.isoformat(),
        "by_day": [],
        "now": [],
        "installations": 0,
        "failures": [],
        "failures_total": 0,
    }


async def test_the_report_as_json_has_plain_values(embedded: Warehouse) -> None:
    found = await report(embedded, record(event("check", "a"), event("error", "b", error="e", version=3)))

    assert found.as_json() | {"first_day": "", "last_day": ""} == {
        "model": "faces",
        "environment": "prod",
        "first_day": "",
        "last_day": "",
        "by_day": [
            {
                "day": TODAY.isoformat(),
                "active_devices": 2,
                "versions": [{"version": None, "devices": 2, "share": 1.0}],
            }
        ],
        "now": [{"version": None, "devices": 2, "share": 1.0}],
        "installations": 0,
        "failures": [{"version": 3, "error": "e", "count": 1, "devices": 1}],
        "failures_total": 1,
    }


async def test_failures_are_listed_up_to_a_bound_and_all_counted(embedded: Warehouse) -> None:
    errors = [event("error", "a", version=1, error=f"error {n}") for n in range(MAX_FAILURES + 20)]
    found = await report(embedded, record(*errors, event("error", "a", version=1, error="error 7")))

    assert len(found.failures) == MAX_FAILURES
    assert found.failures[0] == Failure(1, "error 7", 2, 1)
    assert found.failures_total == MAX_FAILURES + 21


@pytest.mark.parametrize("days", [0, -1, MAX_DAYS + 1])
async def test_a_window_without_sense_is_an_error(embedded: Warehouse, days: int) -> None:
    with pytest.raises(ValueError, match="days"):
        await report(embedded, days=days)


async def test_no_answer_is_not_the_same_as_no_data(tmp_path: Path) -> None:
    nowhere = open_warehouse("clickhouse://127.0.0.1:1/skafos", tmp_path)
    with pytest.raises(WarehouseUnavailable):
        await report(nowhere)
    await nowhere.close()


steps = st.lists(
    st.tuples(
        st.integers(0, 4),  # the device
        st.integers(0, 6),  # days ago
        st.integers(0, 23),  # hour of the day
        st.sampled_from(["check", "activate", "download", "error"]),
        st.none() | st.integers(1, 3),  # version
        st.none() | st.integers(1, 3),  # from_version
    ),
    max_size=25,
    unique_by=lambda step: step[1:3],  # one batch an hour, so that the order of arrival is clear
)


def truth(story: list[tuple[int, int, int, str, int | None, int | None]]) -> dict[date, dict[int | None, int]]:
    """Count by hand: devices by day and by the version that the day's last telling event names."""
    held: dict[tuple[date, int], int | None] = {}
    for device, ago, _, kind, version, from_version in sorted(story, key=lambda step: (-step[1], step[2])):
        day = TODAY - ago * DAY
        tells = kind in ("check", "activate") or from_version is not None
        if tells or (day, device) not in held:
            held[day, device] = (version if kind in ("check", "activate") else from_version) if tells else None
    counted: dict[date, dict[int | None, int]] = defaultdict(lambda: defaultdict(int))
    for (day, _), version in held.items():
        counted[day][version] += 1
    return {day: dict(versions) for day, versions in counted.items()}


# --- what is held now -------------------------------------------------------------------------------------------------


async def held(
    warehouse: Warehouse,
    *records: Record,
    versions: Sequence[int] = (1, 2, 3),
    days: int = 7,
    names: Sequence[ModelName] = FACES,
) -> tuple[VersionShare, ...]:
    """Insert the records, each on its own, and ask which of these versions are held."""
    for place, one in enumerate(records):
        await warehouse.insert_events(event_columns([one]), f"insert-{place}")
    now = NOON + timedelta(hours=3)
    return await held_now(warehouse, "org-1", "app-1", "prod", names, versions, days, now)


async def test_versions_that_are_held_come_with_the_most_devices_first(warehouse: Warehouse) -> None:
    found = await held(
        warehouse,
        record(event("check", "gone", version=3), at=NOON - 10 * DAY),
        record(*(event("check", device, version=1) for device in "abc"), at=NOON - DAY),
        record(event("activate", "c", version=2, from_version=1), event("check", "d"), event("check", "e", version=1)),
    )

    assert found == (VersionShare(1, 3, 0.6), VersionShare(2, 1, 0.2), VersionShare(None, 1, 0.2))


async def test_versions_that_nobody_asked_about_count_as_none(warehouse: Warehouse) -> None:
    made_up = [event("check", f"d{number}", version=4_000_000_000 + number) for number in range(5)]
    found = await held(warehouse, record(event("check", "a", version=3), *made_up))

    assert found == (VersionShare(None, 5, 5 / 6), VersionShare(3, 1, 1 / 6))


async def test_what_is_held_of_two_models_of_one_name_stays_apart(warehouse: Warehouse) -> None:
    records = [record(event("check", "a", version=3), event("check", "b", version=4), event("check", "c", version=4))]
    new = await held(warehouse, *records, versions=(4,), names=[ModelName("faces", first=4, since=TODAY)])
    old = await held(warehouse, versions=(1, 2, 3), names=[ModelName("faces", first=1, last=3)])

    assert new == (VersionShare(4, 2, 1.0),)
    assert old == (VersionShare(3, 1, 1.0),)


async def test_without_devices_nothing_is_held(embedded: Warehouse) -> None:
    assert await held(embedded) == ()


# --- names that change hands ------------------------------------------------------------------------------------------


async def test_the_figures_of_a_renamed_model_go_on(warehouse: Warehouse) -> None:
    found = await report(
        warehouse,
        record(
            event("activate", "a", version=1, model="visages"),
            event("activate", "b", version=1, model="visages"),
            event("error", "b", version=2, model="visages", error="e"),
            at=NOON - DAY,
        ),
        record(event("check", "a", version=1, model="visages")),
        record(event("activate", "a", version=2), at=NOON + timedelta(hours=1)),
        record(event("activate", "c", version=2, model="somebody else's"), at=NOON + timedelta(hours=1)),
        names=[ModelName("faces"), ModelName("visages")],
    )

    assert [(day.day, day.versions) for day in found.by_day] == [(TODAY - DAY, shares((1, 2))), (TODAY, shares((2, 1)))]
    assert found.now == shares((2, 1), (1, 1))
    assert (found.model, found.installations) == ("faces", 2)
    assert (found.failures, found.failures_total) == ((Failure(2, "e", 1, 1),), 1)


OLD_MODEL = [
    record(event("activate", "a", version=3), event("activate", "b", version=2), at=NOON - DAY),
    record(event("check", "a", version=3), event("check", "b", version=2), event("error", "b", version=3, error="old")),
]


async def test_a_model_that_takes_the_name_of_another_starts_at_zero(warehouse: Warehouse) -> None:
    found = await report(warehouse, *OLD_MODEL, names=[ModelName("faces", first=4, since=TODAY)])

    assert (found.by_day, found.now, found.installations) == ((), (), 0)
    assert (found.failures, found.failures_total) == ((), 0)


async def test_figures_of_two_models_of_one_name_stay_apart(warehouse: Warehouse) -> None:
    records = [
        *OLD_MODEL,
        record(event("check", "empty"), at=NOON - DAY),
        record(
            event("error", "a", version=4, from_version=3, error="new"),
            event("activate", "b", version=4, from_version=2),
            event("check", "c"),
            at=NOON + timedelta(hours=1),
        ),
    ]
    new = await report(warehouse, *records, names=[ModelName("faces", first=4, since=TODAY)])
    old = await report(warehouse, names=[ModelName("visages"), ModelName("faces", first=1, last=3)])

    assert [(day.day, day.versions) for day in new.by_day] == [(TODAY, shares((4, 1), (None, 1)))]
    assert new.now == shares((4, 1), (None, 1))
    assert (new.installations, new.failures, new.failures_total) == (1, (Failure(4, "new", 1, 1),), 1)
    assert [(day.day, day.versions) for day in old.by_day] == [
        (TODAY - DAY, shares((3, 1), (2, 1))),
        (TODAY, shares((3, 1))),
    ]
    assert old.now == shares((3, 1))
    assert (old.installations, old.failures, old.failures_total) == (2, (Failure(3, "old", 1, 1),), 1)


async def test_a_device_that_reports_under_two_names_counts_once_for_the_newer(warehouse: Warehouse) -> None:
    found = await report(
        warehouse,
        record(event("activate", "a", version=9)),
        record(event("activate", "a", version=3, model="visages"), at=NOON + timedelta(hours=1)),
        names=[ModelName("faces", first=4, since=TODAY), ModelName("visages", first=1, last=3)],
    )

    assert found.by_day[0].versions == found.now == shares((9, 1))
    assert found.installations == 1


@pytest.fixture(scope="module")
def stories() -> list[int]:
    """Counts the stories told, so that each gets an application of its own."""
    return [0]


@settings(max_examples=25, deadline=None)
@given(story=steps)
def test_the_days_agree_with_counting_by_hand(
    story: list[tuple[int, int, int, str, int | None, int | None]], stories: list[int], story_warehouse: Any
) -> None:
    stories[0] += 1
    application = f"story-{stories[0]}"
    midnight = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC)
    records = [
        record(
            event(kind, f"device-{device}", version=version, from_version=from_version),
            at=midnight - ago * DAY + timedelta(hours=hour),
            sender=labels(application_id=application),
        )
        for device, ago, hour, kind, version, from_version in story
    ]

    found = story_warehouse(records, application)

    assert {day.day: {share.version: share.devices for share in day.versions} for day in found.by_day} == truth(story)
    assert [sum(share.share for share in day.versions) for day in found.by_day] == pytest.approx(
        [1.0] * len(found.by_day)
    )


@pytest.fixture(scope="module")
def story_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One embedded warehouse and loop for all stories: hypothesis calls a plain function many times."""
    with asyncio.Runner() as runner:
        opened = open_warehouse(None, tmp_path_factory.mktemp("stories"))
        runner.run(opened.migrate())

        async def tell(records: list[Record], application: str) -> AdoptionReport:
            await opened.insert_events(event_columns(records), application)
            return await adoption(opened, "org-1", application, "prod", FACES, 7, NOON + timedelta(hours=11))

        yield lambda records, application: runner.run(tell(records, application))
        runner.run(opened.close())
