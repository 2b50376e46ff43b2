"""The fleet of the demonstration, where it is hurt."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from skafos import demo_fleet
from skafos.demo_fleet import WORKERS, Fleet, play
from tests.components import free_port
from tests.skafos.repository import Repository

DEVICES = 60


def test_at_the_end_nobody_waits_for_checks_that_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All at once, at an edge that is away: each check takes its pauses, and the others wait for their turn.
    monkeypatch.setattr(demo_fleet, "ARRIVAL_SECONDS_EACH", 0.0)
    key = Repository(tmp_path / "repository").key
    fleet = Fleet(f"http://127.0.0.1:{free_port()}", key, ("model",), tmp_path, DEVICES)
    stop = threading.Event()
    checks: list[None] = []
    said: list[str] = []

    def checked(_: object) -> None:
        checks.append(None)
        stop.set()

    play(fleet, stop, checked, said.append)

    assert 1 <= len(checks) <= 2 * WORKERS
