"""A generated population does what devices do, the same for the same seed, and its rows say so."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from bench.telemetry import rows as r
from bench.telemetry.bodies import varied_bodies
from bench.telemetry.deployments import BUCKETS, DAY, HOUR, offered
from bench.telemetry.fleet import Fleet, devices_for
from bench.telemetry.rows import Rows, joined
from bench.telemetry.wire import posted
from telemetry.events import EVENT_TYPES, decode_batch, decode_events

FIRST_DAY, DAYS, DEVICES = date(2026, 3, 2), 12, 600


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(DEVICES, FIRST_DAY, DAYS, apps=2)


@pytest.fixture(scope="module")
def days(fleet: Fleet) -> list[Rows]:
    return list(fleet.days())


@pytest.fixture(scope="module")
def ours(days: list[Rows]) -> Rows:
    """All rows of the subject's model."""
    whole = joined(days)
    return whole.take((whole["source"] == 0) & (whole["model"] == r.SUBJECT))


def ids(rows: Rows) -> list[tuple[int, int]]:
    return list(zip(rows["id_high"].tolist(), rows["id_low"].tolist(), strict=True))


def test_the_same_seed_gives_the_same_rows_and_another_gives_others(fleet: Fleet, days: list[Rows]) -> None:
    same, other = (next(iter(Fleet(DEVICES, FIRST_DAY, DAYS, 2, seed).days())) for seed in (1, 2))
    assert all(np.array_equal(days[0][name], same[name]) for name in r.TYPES)
    assert len(other) != len(days[0]) or not np.array_equal(days[0]["id_low"], other["id_low"])


def test_each_day_has_what_arrives_on_it_in_order(days: list[Rows]) -> None:
    start = int(datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC).timestamp())
    assert len(days) == DAYS
    for number, rows in enumerate(days):
        received = rows["received_ms"]
        assert (received[1:] >= received[:-1]).all()
        assert (received // (DAY * 1000) == start // DAY + number).all()


def test_about_as_many_events_come_as_were_asked_for() -> None:
    wanted = 60_000
    made = sum(map(len, Fleet(devices_for(wanted, DAYS, 3), FIRST_DAY, DAYS, 3).days()))
    assert 0.75 * wanted < made < 1.25 * wanted


def test_one_delivery_of_each_event_is_the_last_and_it_is_the_one_that_comes_last(ours: Rows) -> None:
    latest: dict[tuple[int, int], tuple[int, bool]] = {}
    for name, arrival, last in zip(ids(ours), ours.arrival().tolist(), ours["last"].tolist(), strict=True):
        latest[name] = max(latest.get(name, (-1, False)), (arrival, last))
    assert all(last for _, last in latest.values())
    assert int(ours["last"].sum()) == len(latest) < len(ours)


def test_two_deliveries_of_a_device_never_arrive_at_one_moment(ours: Rows) -> None:
    pairs = list(zip(ours["device"].tolist(), ours.arrival().tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


def test_events_come_twice_within_a_batch_and_in_another_one_and_on_another_day(ours: Rows) -> None:
    seen: dict[tuple[int, int], list[int]] = {}
    for name, received in zip(ids(ours), ours["received_ms"].tolist(), strict=True):
        seen.setdefault(name, []).append(received)
    repeated = [times for times in seen.values() if len(times) > 1]
    assert any(len(set(times)) == 1 for times in repeated)
    assert any(len(set(times)) > 1 for times in repeated)
    assert any(len({time // (DAY * 1000) for time in times}) > 1 for times in repeated)


def test_some_batches_are_late_and_overtaken(ours: Rows, fleet: Fleet) -> None:
    right = ~fleet.subject.devices.clock_of_1970[ours["device"]]
    late = ours["received_ms"][right] / 1000 - ours["occurred"][right]
    assert (late > HOUR).any()
    order = np.lexsort((ours.arrival(), ours["device"]))
    device, occurred = ours["device"][order], ours["occurred"][order]
    assert ((device[1:] == device[:-1]) & (occurred[1:] < occurred[:-1] - HOUR)).any()


def test_some_clocks_show_the_future_and_some_1970(ours: Rows) -> None:
    received = ours["received_ms"] // 1000
    assert (ours["occurred"] > received + 365 * DAY).any()
    assert (ours["occurred"] < 365 * DAY).any()


def test_some_devices_are_away_for_long_and_come_back(ours: Rows) -> None:
    order = np.lexsort((ours["received_ms"], ours["device"]))
    device, received = ours["device"][order], ours["received_ms"][order]
    apart = (received[1:] - received[:-1])[device[1:] == device[:-1]]
    assert (apart > 5 * DAY * 1000).any()


def test_types_that_the_server_does_not_know_are_among_them(ours: Rows) -> None:
    assert {r.KINDS[kind] for kind in np.unique(ours["kind"])} - set(EVENT_TYPES) == {"app_opened"}


def test_more_is_asked_in_the_evening_of_a_devices_own_zone_than_at_night(ours: Rows, fleet: Fleet) -> None:
    own = (ours["received_ms"] // 1000 + fleet.subject.devices.zone[ours["device"]]) // HOUR % 24
    by_hour = np.bincount(own.astype(np.int64), minlength=24)
    assert by_hour[19:22].sum() > 3 * by_hour[1:4].sum()


def test_the_mix_of_systems_and_apps_shifts(days: list[Rows]) -> None:
    first, last = days[0], days[-1]
    assert first["app_version"].mean() < last["app_version"].mean()
    assert first["os_version"].mean() < last["os_version"].mean()


def test_no_device_activates_what_it_is_not_offered(ours: Rows, fleet: Fleet) -> None:
    population = fleet.subject
    activations = ours.take((ours["kind"] == r.ACTIVATE) & ours["last"])
    assert set(activations["version"].tolist()) >= {2, 3, 4, 5}
    for deployment in population.deployments[1:]:
        device = activations["device"][activations["version"] == deployment.version]
        arrived = activations["received_ms"][activations["version"] == deployment.version] // 1000
        assert (arrived >= deployment.at).all()
        assert (population.devices.buckets[device, deployment.version - 1] < deployment.steps[-1][1]).all()


def test_percents_rise_by_steps_and_a_version_that_is_taken_back_is_offered_no_more(fleet: Fleet) -> None:
    deployments = fleet.subject.deployments
    second, bad = deployments[1], deployments[2]
    buckets = np.zeros((4, len(deployments)), np.uint16)
    buckets[:, 1] = 400, 600, 400, BUCKETS - 1
    moments = np.array([second.at - 1, second.at, second.at, second.at + DAY])
    assert offered(deployments, buckets, moments).tolist() == [1, 1, 2, 2]
    assert bad.withdrawn_at is not None
    assert offered(deployments, buckets[:2], np.array([bad.at, bad.withdrawn_at])).tolist() == [3, 2]


def test_downloads_have_a_heavy_tail(ours: Rows) -> None:
    times = ours["duration_ms"][ours["kind"] == r.DOWNLOAD]
    assert np.percentile(times, 99) > 10 * np.percentile(times, 50)


def test_every_batch_is_accepted_and_says_what_its_rows_say(fleet: Fleet, days: list[Rows]) -> None:
    rows = days[5].take(np.arange(min(3_000, len(days[5]))))
    place = 0
    for batch in posted(rows, fleet.populations):
        decoded = decode_batch(batch.body, "application/json")
        assert decoded.refused_count == 0
        assert decoded.count == batch.events
        for event in decode_events(decoded.raw):
            assert event.event_id.int == int(rows["id_high"][place]) << 64 | int(rows["id_low"][place])
            assert event.type == r.KINDS[rows["kind"][place]]
            assert (event.version or r.NONE) == rows["version"][place]
            assert event.occurred_unix() == rows["occurred"][place]
            place += 1
    assert place == len(rows)


def test_bodies_for_load_differ_and_hold_no_event_twice() -> None:
    bodies = [decode_events(decode_batch(body).raw) for body in varied_bodies(50, 20)]
    assert [len(events) for events in bodies] == [20] * 50
    assert len({event.event_id for events in bodies for event in events}) == 50 * 20
    assert all(len({event.device_id for event in events}) == 1 for events in bodies)


def test_a_window_of_another_length_has_the_same_kinds_of_rows() -> None:
    rows = joined(list(Fleet(200, FIRST_DAY - timedelta(days=30), 3, apps=1).days()))
    assert set(np.unique(rows["kind"])) == set(range(len(r.KINDS)))
