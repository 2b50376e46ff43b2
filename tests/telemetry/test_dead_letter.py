"""What was put aside can be seen, and be shipped again by a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from telemetry.dead_letter import DeadSegment, NoSuchDeadSegment, bury, dead_segments, redrive
from telemetry.dead_letters import main
from telemetry.shipper import Shipper
from telemetry.warehouse import Warehouse
from tests.environment import environment_with
from tests.telemetry.samples import event, record
from tests.telemetry.test_shipper import dead_letters, put
from tests.telemetry.warehouses import embedded

__all__ = ["embedded"]  # a fixture


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `skafos shipper` with options, until it ends."""
    environment = environment_with({"SKAFOS_SPOOL_DIR": str(root)})
    program = [sys.executable, "-c", "from skafos.cli import main; main()", "shipper", *arguments]
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)


async def test_a_segment_that_was_refused_is_shipped_again_when_the_reason_is_gone(
    tmp_path: Path, embedded: Warehouse
) -> None:
    await embedded.query("ALTER TABLE raw_events ADD CONSTRAINT none CHECK device_id != 'bad'")
    put(tmp_path, "0001-a", record(event(device="bad")))
    await Shipper(tmp_path, embedded).drain(30)
    (dead,) = msgspec.json.decode(command(tmp_path, "--dead-letters", "--json").stdout, type=list[DeadSegment])
    assert (dead.name, dead.writer, dead.segment) == ("edge-0-0001-a", "edge-0", "0001-a.ready")
    assert "none" in dead.reason

    await embedded.query("ALTER TABLE raw_events DROP CONSTRAINT none")
    assert command(tmp_path, "--redrive", dead.name).returncode == 0
    await Shipper(tmp_path, embedded).drain(30)

    assert await embedded.query("SELECT device_id FROM events") == [{"device_id": "bad"}]
    assert not list((tmp_path / "dead-letter").iterdir())


def test_all_are_shown_with_their_reasons_and_handed_over_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKAFOS_SPOOL_DIR", str(tmp_path))
    for name in ("0001-a", "0002-a"):
        path = put(tmp_path, name, record(event()))
        bury(tmp_path, path, path.name, f"the reason of {name}")

    assert main([]) == 0
    shown = capsys.readouterr()
    assert "the reason of 0001-a" in shown.out
    assert "2 segments" in shown.err
    assert main(["--redrive", "all"]) == 0

    assert [path.name for path in sorted((tmp_path / "edge-0").iterdir())] == ["0001-a.ready", "0002-a.ready"]
    assert not dead_letters(tmp_path)


def test_a_name_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKAFOS_SPOOL_DIR", str(tmp_path))

    assert main(["--redrive", "nothing"]) == 1
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../edge-0/0001-a", "/etc/passwd", ".", "", "a/b"])
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "dead-letter").mkdir()
    put(tmp_path, "0001-a").rename(tmp_path / "edge-0" / "0001-a.segment")

    with pytest.raises(NoSuchDeadSegment):
        redrive(tmp_path, name)


def test_a_segment_without_a_reason_or_with_a_strange_one_can_be_handed_over_too(tmp_path: Path) -> None:
    grave = tmp_path / "dead-letter"
    grave.mkdir()
    for name, note in (("one", b""), ("two", b'{"segment": "../x", "writer": "..", "reason": "", "put_aside_at": 0}')):
        (grave / f"{name}.segment").touch()
        (grave / f"{name}.reason.json").write_bytes(note)

    assert {dead.reason for dead in dead_segments(tmp_path)} == {"unknown"}
    for name in ("one", "two"):
        redrive(tmp_path, name)

    assert [path.name for path in sorted((tmp_path / "redriven").iterdir())] == ["one.ready", "two.ready"]
