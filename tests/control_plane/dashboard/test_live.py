"""Pages that follow: what is told, to whom, and that nobody who shuts down waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import httpx
import pytest

from tests.control_plane.dashboard.browsing import Browser
from tests.control_plane.dashboard.conftest import APP, MODEL, ORG, Office
from tests.control_plane.running import OWNER, running_api

WAIT_SECONDS = 60.0
LIVE = "/organizations/Acme/apps/Photos/models/faces/live"
FIGURES = "/organizations/Acme/apps/Photos/models/faces/monitor/live"


@contextmanager
def following(browser: Browser, path: str) -> Iterator[Queue[str]]:
    """Give the lines of a stream as they come."""
    lines: Queue[str] = Queue()
    with browser.client.stream("GET", path) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream"

        def read() -> None:
            try:
                for line in answer.iter_lines():
                    lines.put(line)
            except httpx.HTTPError:
                lines.put("broken")
            lines.put("end")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        yield lines


def wait_for(lines: Queue[str], wanted: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while lines.get(timeout=WAIT_SECONDS) != wanted:
        assert time.monotonic() < deadline


def test_a_page_hears_of_a_new_version_and_of_a_deployment(office: Office) -> None:
    viewer = Browser(office.api)
    viewer.client.cookies = office.browsers["viewer"].client.cookies
    with following(viewer, LIVE) as lines:
        wait_for(lines, "retry: 5000")
        office.api.upload(MODEL, b"another model", "model.bin")
        wait_for(lines, "event: change")
        office.api.post(f"{MODEL}/deploy", {"version": "latest", "environment": "prod"})
        wait_for(lines, "event: change")


@pytest.mark.parametrize("path", [LIVE, FIGURES])
def test_who_may_not_see_the_model_hears_nothing(office: Office, path: str) -> None:
    assert office.browsers["outsider"].client.get(path).status_code == 404
    assert Browser(office.api).client.get(path).status_code == 401


def test_figures_are_followed_of_an_environment_that_is_there(office: Office) -> None:
    viewer = office.browsers["viewer"].client
    assert viewer.get(FIGURES, params={"environment": "nowhere"}).status_code == 404
    assert viewer.get(FIGURES, params={"days": "7"}).status_code == 400
    reader = Browser(office.api)
    reader.client.cookies = viewer.cookies
    with following(reader, f"{FIGURES}?environment=prod") as lines:
        wait_for(lines, "retry: 5000")


def test_shutting_down_ends_the_streams_in_order(tmp_path: Path) -> None:
    with running_api(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite3'}") as api:
        api.post(f"{ORG}/apps", {"name": "Photos", "bundle_id": "com.example.photos", "platform": "ios"})
        api.post(f"{APP}/models", {"name": "faces"})
        browser = Browser.of(api, OWNER)
        with following(browser, LIVE) as lines:
            wait_for(lines, "retry: 5000")
            assert api.stop() == 0
            wait_for(lines, "end")
