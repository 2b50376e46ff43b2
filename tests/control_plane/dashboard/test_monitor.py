"""The page Monitor: figures of real events as charts, tables and CSV, also of devices that say what they like."""

from __future__ import annotations

import ast
import asyncio
import csv
import io
import json
import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from control_plane import dashboard
from control_plane.api.figure_schemas import DayDevicesOut, DevicesOut, ValueDevicesOut
from control_plane.dashboard.charts import MAX_LABEL, Lines, label_of
from control_plane.dashboard.figures import (
    DIMENSIONS,
    FIGURES,
    MAX_LINES,
    SHEETS,
    devices_chart,
    devices_sheet,
    devices_table,
    major_of,
)
from control_plane.dashboard.sheets import Column, Sheet, show_share
from telemetry import queries
from telemetry.segment import EventLabels
from telemetry.spool import Spool
from tests.command import run
from tests.control_plane.dashboard.browsing import Browser, Page
from tests.control_plane.dashboard.conftest import APP, MODEL, ORG
from tests.control_plane.running import ORGANIZATION, OWNER, Api, running_api
from tests.small_population import population

PAGE = "/organizations/Acme/apps/Photos/models/faces/monitor"
SHIPPED_SECONDS = 60.0
EVIL_VERSION = "</script><img src=x onerror=alert(1)>"
EVIL_MODEL = '=HYPERLINK("http://evil.example","look")'
EVIL_LOCALE = "@{day}{safe} $name"


def events() -> list[dict[str, Any]]:
    """Return what the small population reports, and a device that says what it likes."""
    told = population("faces")
    evil = {"os_version": EVIL_VERSION, "device_model": EVIL_MODEL, "locale": EVIL_LOCALE}
    return [*told, {**told[0], "event_id": str(uuid.uuid4()), "device_id": "d-9", **evil}]


def deployed(api: Api) -> str:
    """Make an application with a deployed model, and return the application's id."""
    app = api.post(f"{ORG}/apps", {"name": "Photos", "bundle_id": "com.example.photos", "platform": "ios"})
    api.post(f"{APP}/models", {"name": "faces"})
    api.upload(MODEL, b"weights", "model.bin")
    api.post(f"{MODEL}/deploy", {"version": 1, "environment": "prod"})
    return str(app["id"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The owner's browser, at a control plane that has shipped the events."""
    folder = tmp_path_factory.mktemp("monitor")
    spool_folder = folder / "spool"
    with running_api(folder, f"sqlite:///{folder / 'test.sqlite3'}", SKAFOS_SPOOL_DIR=str(spool_folder)) as api:
        app_id = deployed(api)
        labels = EventLabels(api.get(ORG)["id"], ORGANIZATION, app_id, "Photos", "prod")
        batch = events()

        async def spool() -> None:
            async with Spool(spool_folder / "0") as writer:
                await writer.append(labels, msgspec.json.encode(batch), datetime.now(UTC))

        asyncio.run(spool())
        deadline = time.monotonic() + SHIPPED_SECONDS
        while f"skafos_shipper_events_total {len(batch)}.0" not in httpx.get(f"{api.metrics_url}/metrics").text:
            assert time.monotonic() < deadline, api.log()
            time.sleep(0.05)
        yield Browser.of(api, OWNER)


def sections(page: Page) -> dict[str, str]:
    """Return each figure's state."""
    return dict(re.findall(r'<section class="card monitor" id="([^"]+)"[^>]* data-state="([^"]+)"', page.answer.text))


def charts(browser: Browser, page: Page) -> list[Any]:
    """Return what the page's charts are drawn from."""
    answers = [browser.client.get(unescape(at)) for at in re.findall(r'data-chart="([^"]+)"', page.answer.text)]
    assert all(answer.headers["Content-Type"].startswith("application/json") for answer in answers)
    return [answer.json() for answer in answers]


def require_known(part: Any, known: set[str]) -> None:
    """Check that a chart refers only to what came before, as Bokeh's script reads it in one go."""
    if isinstance(part, dict):
        if set(part) == {"id"}:
            assert part["id"] in known
        elif "id" in part:
            known.add(part["id"])
        for each in part.values():
            require_known(each, known)
    elif isinstance(part, list):
        for each in part:
            require_known(each, known)


def rows_of(browser: Browser, file: str, query: str = "") -> list[dict[str, str]]:
    answer = browser.client.get(f"{PAGE}/{file}.csv?{query}")
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_every_figure_stands_there_as_a_chart_a_table_and_csv(browser: Browser) -> None:
    page = browser.get(PAGE)
    assert sections(page) == dict.fromkeys(FIGURES, "data")
    drawn = charts(browser, page)
    assert len(drawn) == len(FIGURES)
    for chart in drawn:
        assert chart["doc"]["roots"][0]["id"] == chart["root_id"]
        require_known(chart["doc"], set())
    assert page.answer.text.count('<details class="data">') == len(FIGURES)
    for sentence in (
        "2 devices ever activated a version.",
        "Version 1 failed on 1 of 3 devices, 33.33 %.",
        "most that stop do so after: download.",
        "3 downloads took 230 bytes; patches saved 70 bytes, 23.33 %.",
        "What 5 active devices hold now.",
    ):
        assert sentence in page.text
    files = {link for link in page.links if ".csv" in link}
    assert len(files) == len(SHEETS)
    for link in files:
        answer = browser.client.get(link)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
        assert answer.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''faces-prod-")
        assert len(answer.text.splitlines()) > 1, link


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (1 / 3, "33.33 %"), (0.088263, "8.83 %"), (0.0001, "0.01 %"), (0.0000012, "0.00012 %")],
)
def test_shares_are_told_to_a_hundredth_of_a_per_cent(share: float, text: str) -> None:
    assert show_share(share) == text


def test_csv_has_the_figures_one_fact_a_row(browser: Browser) -> None:
    today = datetime.now(UTC).date()
    curve = rows_of(browser, "curve", "days=7")
    assert {row["day"] for row in curve} <= {str(today), str(today - timedelta(1))}
    assert [(row["version"], row["devices"], row["share"]) for row in curve] == [("1", "2", "0.4"), ("", "3", "0.6")]
    installations = rows_of(browser, "installations", "environment=prod")
    assert installations == [{"version": "", "devices": "2"}, {"version": "1", "devices": "2"}]
    steps = [(row["step"], row["devices"], row["lost"], row["leak"]) for row in rows_of(browser, "funnel")]
    assert steps[1:] == [("download", "3", "1", "true"), ("verify", "2", "0", "false"), ("activate", "2", "0", "false")]
    (reason,) = rows_of(browser, "reasons")
    assert reason == {"version": "1", "error": "hash differs", "count": "2", "devices": "1"}
    assert {row["encoding"]: row["saved_bytes"] for row in rows_of(browser, "encodings")} == {
        "identity": "0",
        "zstd-prefix": "70",
    }


COMMANDS = {
    "curve": ("curve",),
    "devices": ("devices",),
    "installations": ("installations",),
    "mix": ("mix",),
    "funnel": ("funnel",),
    "failures": ("failures",),
    "reasons": ("failures", "--reasons"),
    "download-times": ("downloads",),
    "bytes": ("bytes",),
    "encodings": ("bytes", "--encodings"),
}
"""The command of each sheet, under ``skafos adoption``."""


@pytest.mark.parametrize("sheet", SHEETS)
def test_the_command_line_tells_the_same_csv(browser: Browser, sheet: str) -> None:
    names = {"SKAFOS_ORG_NAME": ORGANIZATION, "SKAFOS_APP_NAME": "Photos", "SKAFOS_MODEL_NAME": "faces"}
    server = {"SKAFOS_URL": browser.api.url, "SKAFOS_API_TOKEN": browser.api.owner}
    told = run("adoption", *COMMANDS[sheet], "--csv", **names, **server)
    assert told.returncode == 0, told.stderr
    assert list(csv.DictReader(io.StringIO(told.stdout))) == rows_of(browser, sheet)


def test_devices_are_told_apart_by_what_the_reader_chooses_and_what_they_say_is_text(browser: Browser) -> None:
    for dimension, said in (("os_version", EVIL_VERSION), ("device_model", EVIL_MODEL), ("locale", EVIL_LOCALE)):
        page = browser.get(f"{PAGE}?days=7&dimension={dimension}")
        assert f"5 active devices on {datetime.now(UTC).date()}, by {DIMENSIONS[dimension]}." in page.text
        switch = re.findall(r'dimension=(\w+)#devices"( aria-current="true")?>', page.answer.text)
        assert [(name, bool(chosen)) for name, chosen in switch] == [(each, each == dimension) for each in DIMENSIONS]
        assert '<option value="7" selected>' in page.answer.text
        assert said in page.text, "the table has it whole"
        assert json.dumps(label_of(said)) in json.dumps(charts(browser, page)[list(FIGURES).index("devices")])
        (file,) = (link for link in page.links if "/devices.csv" in link)
        rows = list(csv.DictReader(io.StringIO(browser.client.get(file).text)))
        assert sum(int(row["devices"]) for row in rows) == 5
        if dimension == "device_model":
            assert {row["value"] for row in rows} == {"", f"'{EVIL_MODEL}"}


def test_devices_can_be_told_apart_by_all_that_the_api_knows() -> None:
    assert set(DIMENSIONS) == set(queries.DIMENSIONS)


def test_the_page_allows_styles_that_bokeh_writes_and_no_script_but_our_own(browser: Browser) -> None:
    page = browser.get(PAGE)
    answer = page.answer
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["style-src-elem"] == "'self' 'unsafe-inline'"
    (script,) = re.findall(r'src="(/assets/[0-9a-f]{16}/bokeh.js)"', answer.text)
    packed = browser.client.get(script)
    assert "immutable" in packed.headers["Cache-Control"]
    assert packed.headers["Content-Encoding"] == "gzip"
    plain = browser.client.get(script, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == packed.content
    # Charts are of the version that draws them.
    assert f'"{charts(browser, page)[0]["version"]}"'.encode() in plain.content


def test_an_environment_without_data_says_what_to_do_and_draws_nothing(browser: Browser) -> None:
    page = browser.get(f"{PAGE}?environment=dev")
    assert "No data yet" in page.text
    assert "dev offers no version of this model" in page.text
    assert charts(browser, page) == []
    assert [each for each in page.scripts if "bokeh" in each or "charts" in each] == [], "they come with the first data"
    assert rows_of(browser, "curve", "environment=dev") == []
    assert "cannot be reached" not in page.text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (f"{PAGE}?environment=qa", 404),
        (f"{PAGE}?days=0", 400),
        (f"{PAGE}?days=401", 400),
        (f"{PAGE}?dimension=device_id", 400),
        (f"{PAGE}/nothing.csv", 404),
        (f"{PAGE}/nothing.chart", 404),
        (f"{PAGE}/curve.chart?environment=dev", 404),
        (f"{PAGE}/curve.chart?days=0", 400),
        (f"{PAGE}/curve.csv?environment=qa", 404),
        (f"{PAGE}/curve.csv?dimension=os", 400),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(browser: Browser, address: str, status: int) -> None:
    assert "Traceback" not in browser.get(address, status).text


def test_files_are_for_members(browser: Browser) -> None:
    browser.api.outsider("Elsewhere", "else@example.org")
    outsider = Browser.of(browser.api, "else@example.org")
    for file in ("curve.csv", "curve.chart"):
        assert Browser(browser.api).client.get(f"{PAGE}/{file}").url.path == "/sign-in"
        outsider.get(f"{PAGE}/{file}", 404)


def test_bokeh_is_not_imported_before_a_chart_is_drawn() -> None:
    for file in Path(dashboard.__file__).parent.glob("*.py"):
        for statement in ast.parse(file.read_bytes()).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                assert "bokeh" not in ast.unparse(statement), file


@pytest.mark.parametrize(
    ("version", "major"),
    [("17.1", "17.X"), ("17", "17.X"), ("9.3.5", "9.X"), ("", ""), ("Tiramisu", "Tiramisu"), ("20260101", "20260101")],
)
def test_versions_of_an_os_are_grouped_by_their_first_number(version: str, major: str) -> None:
    assert major_of(version) == major


def devices(values: dict[str, int], others: int = 0) -> DevicesOut:
    """Return an answer about a week, of which the fourth day has devices."""
    first = date(2026, 3, 1)
    active = sum(values.values()) + others
    shown = [ValueDevicesOut(value=name, devices=count, share=count / active) for name, count in values.items()]
    day = DayDevicesOut(day=first + timedelta(3), active_devices=active, values=shown, other_devices=others)
    asked: dict[str, Any] = {"model": "m", "environment": "prod", "dimension": "os_version"}
    return DevicesOut(**asked, first_day=first, last_day=first + timedelta(6), by_day=[day])


def test_a_chart_has_every_day_and_a_line_for_each_major_version() -> None:
    chart = devices_chart(devices({"17.1": 3, "17.4": 2, "16.0": 1}, others=4))
    assert isinstance(chart, Lines)
    assert len(chart.days) == 7
    assert dict(chart.series) == {
        "17.X": [0, 0, 0, 5, 0, 0, 0],
        "16.X": [0, 0, 0, 1, 0, 0, 0],
        "others": [0, 0, 0, 4, 0, 0, 0],
    }


def test_lines_are_bounded_and_nobody_is_left_out() -> None:
    answer = devices({f"{number}.0": 100 + number for number in range(40)}, others=7)
    chart = devices_chart(answer)
    assert len(chart.series) == MAX_LINES + 1
    total = answer.by_day[0].active_devices
    assert sum(values[3] or 0 for _, values in chart.series) == total
    assert sum(devices_table(answer).rows[0][2:]) == total
    assert sum(row[4] for row in devices_sheet(answer).rows) == total


@pytest.mark.parametrize("said", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_no_text_of_csv_is_a_formula(said: str) -> None:
    sheet = Sheet((Column("text", "text"), Column("share", "share")), [(said, -0.5)])
    _, row = csv.reader(io.StringIO(sheet.csv(), newline=""))
    assert row == [f"'{said}", "-0.5"]


def test_legends_have_short_lines() -> None:
    assert label_of("iPhone14,2") == "iPhone14,2"
    assert len(label_of("x" * 100)) == MAX_LABEL
    assert label_of("a\n\tb") == "a b"
