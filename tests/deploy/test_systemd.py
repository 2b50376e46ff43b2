"""The units and their settings are what systemd understands, what our settings are, and what the proxies expect."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from control_plane.settings import Settings
from edge.settings import EdgeSettings
from telemetry.settings import ShipperSettings
from tests.components import require
from tests.servers.proxies import DEPLOY, WORKERS, adapted

UNITS = DEPLOY / "systemd"
PROGRAM = "/opt/skafos/.venv/bin/skafos"
ROLES: dict[str, tuple[str, type[BaseSettings]]] = {
    "skafos-control-plane.service": ("control-plane", Settings),
    "skafos-edge@.service": ("edge", EdgeSettings),
    "skafos-shipper.service": ("shipper", ShipperSettings),
}


def values(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


def given(unit: str) -> set[str]:
    """Return the names of all settings that a unit and its file of settings give."""
    role, _ = ROLES[unit]
    inside = {value.partition("=")[0] for value in values(unit, "Environment")}
    return inside | set(re.findall(r"^(SKAFOS_\w+)=", (UNITS / f"{role}.env").read_text(), re.MULTILINE))


def test_every_unit_is_known_here() -> None:
    assert {path.name for path in UNITS.glob("*.service")} == set(ROLES)


@pytest.mark.parametrize("unit", ROLES)
def test_systemd_understands_the_unit_and_finds_it_locked_down(unit: str, tmp_path: Path) -> None:
    program = require("systemd-analyze")
    copy = tmp_path / unit.replace("@", "@21")
    copy.write_text(adapted(UNITS / unit, {PROGRAM: sys.executable}))
    verified = subprocess.run([program, "verify", copy], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        [program, "security", "--offline=true", "--threshold=20", copy], capture_output=True, check=False
    )
    assert rated.returncode == 0, "its exposure is above 2.0 of 10"


@pytest.mark.parametrize("unit", ROLES)
def test_every_setting_exists_and_every_required_one_is_given(unit: str) -> None:
    role, settings = ROLES[unit]
    assert values(unit, "ExecStart") == [f"{PROGRAM} {role}"]
    assert values(unit, "EnvironmentFile") == [f"/etc/skafos/{role}.env"]
    names = {f"SKAFOS_{name.upper()}": info.is_required() for name, info in settings.model_fields.items()}
    assert given(unit) <= set(names)
    assert {name for name, required in names.items() if required} <= given(unit)


def test_each_edge_has_the_ports_that_the_proxies_expect() -> None:
    told = dict(value.split("=") for value in values("skafos-edge@.service", "Environment"))
    for worker, (device, metrics) in zip(("21", "22"), WORKERS, strict=True):
        assert told["SKAFOS_EDGE_LISTEN"].replace("%i", worker) == device
        assert told["SKAFOS_EDGE_METRICS_LISTEN"].replace("%i", worker).rpartition(":")[2] == metrics


def test_systemd_waits_longer_than_an_edge_takes_to_end_and_allows_it_its_files() -> None:
    (stop,), (files,) = (values("skafos-edge@.service", name) for name in ("TimeoutStopSec", "LimitNOFILE"))
    fields = EdgeSettings.model_fields
    assert float(stop) > fields["edge_shutdown_seconds"].default
    assert int(files) > 2 * fields["edge_max_connections"].default


def test_edges_store_their_events_where_the_shipper_looks() -> None:
    assert "SKAFOS_SPOOL_DIR=/var/lib/skafos/spool" in values("skafos-edge@.service", "Environment")
    assert "SKAFOS_SPOOL_DIR=/var/lib/skafos/spool" in values("skafos-shipper.service", "Environment")
