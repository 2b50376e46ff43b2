"""Segments that were shipped are written over by their writer, and nothing of what they held is ever read again.

The last test kills the writer; ``make test-kills KILLS=50`` kills it as often as that.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from telemetry import spare_segments
from telemetry.segment import decode_segment
from telemetry.spare_segments import MAX_SPARES, MIN_SPARE_BYTES, SPARE_SECONDS, give_back, remove_spares, spares
from telemetry.spool import Spool
from telemetry.spool_directory import ready_segments, recover_open_segments
from tests.telemetry.samples import NOON, body, event, labels
from tests.telemetry.waiting import until

SMALL = 20_000
WRITER = "edge-0"


@pytest.fixture(autouse=True)
def small_segments_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take small segments for large ones: a megabyte of events takes its time."""
    monkeypatch.setattr(spare_segments, "MIN_SPARE_BYTES", 1)


async def append(spool: Spool, *devices: str) -> None:
    await spool.append(labels(), body(*(event(device=device) for device in devices)), NOON)


def devices_in(path: Path) -> list[str]:
    """Return whose events a segment holds; it must be whole."""
    content = decode_segment(path.read_bytes())
    assert content.damage is None
    return [one["device_id"] for batch in content.records for one in json.loads(batch.events)]


async def test_a_segment_that_was_shipped_is_written_over(tmp_path: Path) -> None:
    async with Spool(tmp_path / WRITER, roll_seconds=0.05) as spool:
        await append(spool, *(f"old-{n}" for n in range(20)))
        await until(lambda: ready_segments(tmp_path / WRITER))
        (first,) = ready_segments(tmp_path / WRITER)
        file = first.stat()
        give_back(first)
        assert [path.stat().st_ino for path in spares(tmp_path / WRITER)] == [file.st_ino]

        await append(spool, "new")
        await until(lambda: ready_segments(tmp_path / WRITER))

        (second,) = ready_segments(tmp_path / WRITER)
        assert devices_in(second) == ["new"]
        assert second.stat().st_ino == file.st_ino
        assert second.stat().st_size < file.st_size, "what was behind it is cut off"
        assert spares(tmp_path / WRITER) == []
        # It is longer than the file that it was written into.
        give_back(second)
        await append(spool, *(f"longer-{n}" for n in range(30)))
        await until(lambda: ready_segments(tmp_path / WRITER))
        (third,) = ready_segments(tmp_path / WRITER)
        assert devices_in(third) == [f"longer-{n}" for n in range(30)]


async def test_what_is_small_or_too_many_or_without_a_writer_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segment(name: str, size: int = MIN_SPARE_BYTES) -> Path:
        path = tmp_path / WRITER / f"{name}.ready"
        path.touch()
        os.truncate(path, size)
        return path

    monkeypatch.undo()
    async with Spool(tmp_path / WRITER, roll_seconds=60):
        give_back(segment("small", MIN_SPARE_BYTES - 1))
        assert spares(tmp_path / WRITER) == []
        for n in range(MAX_SPARES + 2):
            give_back(segment(f"large-{n}"))
        assert len(spares(tmp_path / WRITER)) == MAX_SPARES
        give_back(tmp_path / WRITER / "gone.ready")
    assert spares(tmp_path / WRITER) == [], "its writer is gone"
    give_back(segment("late"))
    assert list((tmp_path / WRITER).iterdir()) == [tmp_path / WRITER / "lock"]


async def test_none_waits_for_long(tmp_path: Path) -> None:
    async with Spool(tmp_path / WRITER, roll_seconds=60):
        for name in ("old", "new"):
            (tmp_path / WRITER / f"{name}.spare").write_bytes(b"x")
        past = time.time() - SPARE_SECONDS - 1
        os.utime(tmp_path / WRITER / "old.spare", (past, past))
        remove_spares(tmp_path / WRITER, SPARE_SECONDS)
        assert [path.stem for path in spares(tmp_path / WRITER)] == ["new"]


async def test_a_writer_begins_without_those_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / WRITER).mkdir()
    (tmp_path / WRITER / "1.spare").write_bytes(b"of a writer that was killed")
    async with Spool(tmp_path / WRITER):
        assert spares(tmp_path / WRITER) == []


async def test_a_spare_that_is_removed_meanwhile_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(directory: Path) -> list[Path]:
        return [directory / "removed.spare"]

    monkeypatch.setattr("telemetry.segment_writer.spares", too_late)
    async with Spool(tmp_path / WRITER, roll_seconds=60) as spool:
        await append(spool, "a")
    assert [devices_in(path) for path in ready_segments(tmp_path / WRITER)] == [["a"]]


WRITING = f"""
import asyncio, sys
from pathlib import Path
from telemetry.spool import Spool
from tests.telemetry.samples import NOON, body, event, labels

async def main():
    async with Spool(Path(sys.argv[1]), roll_seconds=0.02, segment_bytes={SMALL}) as spool:
        async def device(n):
            count = 0
            while True:
                await spool.append(labels(), body(event(device=f"{{n}}-{{count}}")), NOON)
                print(f"{{n}}-{{count}}", flush=True)  # acknowledged
                count += 1
        await asyncio.gather(*(device(n) for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(int(os.environ.get("SKAFOS_TEST_KILLS") or "3")))
def test_a_killed_writer_loses_nothing_and_revives_nothing(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / WRITER
    shipped: Counter[str] = Counter()
    reused = 0

    def ship() -> None:
        nonlocal reused
        for path in ready_segments(directory):
            shipped.update(devices_in(path))
            before = len(spares(directory))
            give_back(path)
            reused += len(spares(directory)) > before

    with subprocess.Popen([sys.executable, "-c", WRITING, str(directory)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        acknowledged: list[bytes] = []
        for _ in range(random.Random(seed).randint(500, 2_000)):
            acknowledged.append(writer.stdout.readline())
            if len(acknowledged) % 50 == 0:
                ship()
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]

    recover_open_segments(directory)
    ship()

    assert reused > 2
    assert {line.decode().strip() for line in acknowledged} <= shipped.keys()
    assert max(shipped.values()) == 1
