"""The figures of a release over the management API: a small population whose every answer is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from control_plane.api.table import ROUTES
from telemetry.segment import EventLabels
from telemetry.spool import Spool
from tests.control_plane.running import ORGANIZATION, Api, running_api
from tests.small_population import population

APPS = f"/v2/organizations/{ORGANIZATION}/apps"
MODEL = f"{APPS}/app/models/model"
QUESTIONS = [route.path.rpartition("/")[2] for route in ROUTES if "/adoption/" in route.path]
SHIPPED_SECONDS = 60.0


@dataclass(frozen=True)
class Figures:
    """A control plane that has shipped the population's events."""

    api: Api

    def get(self, question: str, query: str = "") -> Any:
        return self.api.get(f"{MODEL}/adoption/{question}?environment=prod&{query}")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Figures]:
    folder = tmp_path_factory.mktemp("figures")
    database = f"sqlite:///{folder / 'test.sqlite3'}"
    with running_api(folder, database, SKAFOS_SPOOL_DIR=str(folder / "spool")) as api:
        app = api.post(APPS, {"name": "app", "bundle_id": "org.example.app", "platform": "ios"})
        api.post(f"{APPS}/app/models", {"name": "model"})
        api.upload(MODEL, b"weights", "model.tflite")
        api.post(f"{MODEL}/deploy", {"version": 1, "environment": "prod"})
        organization = api.get(f"/v2/organizations/{ORGANIZATION}")
        labels = EventLabels(organization["id"], ORGANIZATION, app["id"], "app", "prod")
        asyncio.run(spool(folder / "spool", labels))
        deadline = time.monotonic() + SHIPPED_SECONDS
        # An insert is seen in the table before it is in what views feed: it is whole when the shipper counts it.
        shipped = f"skafos_shipper_events_total {len(population('model'))}.0"
        while shipped not in httpx.get(f"{api.metrics_url}/metrics").text:
            assert time.monotonic() < deadline, api.log()
            time.sleep(0.05)
        yield Figures(api)


async def spool(folder: Path, labels: EventLabels) -> None:
    async with Spool(folder / "0") as writer:
        await writer.append(labels, msgspec.json.encode(population("model")), datetime.now(UTC))


def test_the_curve_has_the_share_of_each_version_by_day(figures: Figures) -> None:
    answer = figures.get("curve", "days=7")
    assert (answer["model"], answer["environment"]) == ("model", "prod")
    first, last = (datetime.fromisoformat(answer[end]) for end in ("first_day", "last_day"))
    assert last - first == timedelta(days=6)
    (day,) = answer["by_day"]
    assert day["active_devices"] == 4
    held = [{"version": 1, "devices": 2, "share": 0.5}, {"version": None, "devices": 2, "share": 0.5}]
    assert day["versions"] == held


def test_the_hours_are_counted_from_the_deploy_or_from_a_moment_that_is_given(figures: Figures) -> None:
    answer = figures.get("hours")
    assert answer["version"] == 1
    (hour,) = answer["by_hour"]
    assert (hour["active_devices"], hour["hours_since_deploy"] in (0, 1)) == (4, True)
    since = (datetime.now(UTC) - timedelta(hours=5)).isoformat().replace("+00:00", "Z")
    (hour,) = figures.get("hours", f"since={since}")["by_hour"]
    assert hour["hours_since_deploy"] in (4, 5)


def test_devices_are_told_apart_by_a_dimension(figures: Figures) -> None:
    answer = figures.get("devices", "dimension=os_version")
    (day,) = answer["by_day"]
    assert (answer["dimension"], day["active_devices"], day["other_devices"]) == ("os_version", 4, 0)
    assert {value["value"]: value["devices"] for value in day["values"]} == {"17.1": 2, "18.0": 2}


def test_installations_and_the_mix_now(figures: Figures) -> None:
    told = figures.get("installations")
    assert (told["devices"], told["versions"]) == (2, [{"version": 1, "devices": 2}])
    mix = figures.get("mix", "days=7")
    assert (mix["active_devices"], mix["versions"][0]) == (4, {"version": 1, "devices": 2, "share": 0.5})


def test_the_funnel_says_where_it_leaks(figures: Figures) -> None:
    (funnel,) = figures.get("funnel")["versions"]
    steps = [(step["step"], step["devices"], step["lost"]) for step in funnel["steps"]]
    assert steps == [("check", 4, 1), ("download", 3, 1), ("verify", 2, 0), ("activate", 2, 0)]
    assert (funnel["leak"], funnel["tried_devices"], funnel["failed_devices"]) == ("download", 3, 1)


def test_failures_have_a_rate_with_bounds_and_reasons(figures: Figures) -> None:
    (rate,) = figures.get("failures")["versions"]
    assert (rate["tried_devices"], rate["failed_devices"], rate["errors"]) == (3, 1, 2)
    assert 0 < rate["low"] < rate["rate"] < rate["high"] < 1
    assert rate["reasons"] == [{"error": "hash differs", "count": 2, "devices": 1}]


def test_downloads_have_times_and_bytes_and_what_patches_saved(figures: Figures) -> None:
    times = figures.get("download-times")
    assert times["overall"] == {"downloads": 3, "p50_ms": 120.0, "p95_ms": 120.0}
    assert times["versions"] == [{"version": 1, "downloads": 3, "p50_ms": 120.0, "p95_ms": 120.0}]
    sent = figures.get("bytes")
    assert (sent["downloads"], sent["bytes"], sent["full_bytes"], sent["saved_bytes"]) == (3, 230, 300, 70)
    assert [each["encoding"] for each in sent["encodings"]] == ["identity", "zstd-prefix"]
    assert [each["saved_bytes"] for each in sent["days"]] == [70]


def test_how_long_it_took_and_who_is_stuck(figures: Figures) -> None:
    answer = figures.get("time-to-adopt", "version=1")
    assert (answer["active_devices"], answer["adopted_devices"]) == (4, 2)
    assert [(each["share"], each["at"] is not None) for each in answer["reached"]] == [
        (0.5, True),
        (0.9, False),
        (0.99, False),
    ]
    stuck = figures.get("stuck", "hours=0")
    assert (stuck["version"], stuck["total"]) == (1, 1)
    assert stuck["reasons"] == [{"step": "download", "error": "hash differs", "devices": 1}]
    assert [device["device_id"] for device in stuck["devices"]] == ["d-3"]
    assert figures.get("stuck", "hours=24")["total"] == 0


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_data_is_an_empty_answer_and_what_does_not_exist_is_not(figures: Figures, question: str) -> None:
    api = figures.api
    empty = api.call("GET", f"{MODEL}/adoption/{question}?environment=dev")
    if question in ("hours", "time-to-adopt", "stuck"):
        assert (empty.status_code, empty.json()["code"]) == (404, "never_deployed")
    else:
        assert empty.status_code == 200
        lists = [value for value in empty.json().values() if isinstance(value, list)]
        assert lists
        assert not any(lists)
    assert api.call("GET", f"{MODEL}/adoption/{question}?environment=qa").status_code == 404
    assert api.call("GET", f"{APPS}/app/models/none/adoption/{question}").status_code == 404
    assert api.call("GET", f"{MODEL}/adoption/{question}?odd=1").status_code == 400
    stranger = api.outsider("Others", "else@example.org")
    assert api.call("GET", f"{MODEL}/adoption/{question}", token=stranger).status_code == 404
    assert api.call("GET", f"{MODEL}/adoption/{question}", token="").status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        *("hours?hours=0", "hours?hours=337", "hours?since=2026-01-01T00:00:00", "hours?since=2999-01-01T00:00:00Z"),
        *("devices?dimension=device_id", "curve?days=0", "curve?days=401", "stuck?limit=1001"),
        "time-to-adopt?version=0",
    ],
)
def test_what_is_out_of_bounds_is_refused(figures: Figures, query: str) -> None:
    assert figures.api.call("GET", f"{MODEL}/adoption/{query}").status_code == 400


def test_the_metrics_port_tells_of_the_spool_that_this_process_ships(figures: Figures) -> None:
    grave = figures.api.folder / "spool" / "dead-letter"
    grave.mkdir()
    (grave / "0-x.segment").write_bytes(bytes(5))
    told = httpx.get(f"{figures.api.metrics_url}/metrics").text
    assert "skafos_shipper_dead_letter_segments 1.0" in told
    assert "skafos_shipper_dead_letter_bytes 5.0" in told
    assert "skafos_shipper_waiting_segments 0.0" in told
    assert "skafos_shipper_lag_seconds_count 1.0" in told


def test_a_version_that_was_never_deployed_has_no_time_since_its_deploy(figures: Figures) -> None:
    for question in ("hours", "time-to-adopt"):
        answer = figures.api.call("GET", f"{MODEL}/adoption/{question}?version=7")
        assert (answer.status_code, answer.json()["code"]) == (404, "never_deployed")
    assert figures.get("stuck", "version=7")["total"] == 0
