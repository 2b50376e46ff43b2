"""Segments that were shipped are written over by their writer, and nothing of what they held is ever read again.

The last test kills the writer; ``make test-kills KILLS=50`` kills it as often as that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from telemetry import spare_segments
from telemetry.segment import HEADER, decode_segment
from telemetry.segment_writer import SegmentWriter
from telemetry.spare_segments import MAX_SPARES, MIN_SPARE_BYTES, SPARE_SECONDS, give_back, remove_spares, spares
from telemetry.spool import Spool, SpoolClosed
from telemetry.spool_directory import ready_segments, recover_open_segments
from tests.telemetry.samples import NOON, body, event, labels
from tests.telemetry.waiting import until
from tests.telemetry.writing_process import writing_process

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


async def hand_over(spool: Spool, directory: Path, *devices: str) -> Path:
    """Append a batch; return the segment that it comes in, when the one after that is made ready as well."""
    await append(spool, *devices)
    await until(lambda: ready_segments(directory) and list(directory.glob("*.next")))
    (segment,) = ready_segments(directory)
    assert devices_in(segment) == list(devices)
    return segment


async def test_a_segment_that_was_shipped_is_written_over(tmp_path: Path) -> None:
    async with Spool(tmp_path, roll_seconds=0.05) as spool:
        first = await hand_over(spool, tmp_path, *(f"old-{n}" for n in range(20)))
        file = first.stat()
        give_back(first)
        assert [path.stat().st_ino for path in spares(tmp_path)] == [file.st_ino]
        (await hand_over(spool, tmp_path, "between")).unlink()  # into the one that was made ready before
        assert spares(tmp_path) == []

        second = await hand_over(spool, tmp_path, "new")
        assert second.stat().st_ino == file.st_ino
        assert second.stat().st_size < file.st_size, "what was behind it is cut off"
        give_back(second)
        (await hand_over(spool, tmp_path, "between")).unlink()
        third = await hand_over(spool, tmp_path, *(f"longer-{n}" for n in range(30)))
        assert third.stat().st_ino == file.st_ino


async def test_the_next_segment_is_made_beforehand_and_taken_by_the_next_commit(tmp_path: Path) -> None:
    async with Spool(tmp_path, roll_seconds=0.05) as spool:
        (await hand_over(spool, tmp_path, "a")).unlink()
        (ahead,) = tmp_path.glob("*.next")
        file = ahead.stat().st_ino
        assert (await hand_over(spool, tmp_path, "b")).stat().st_ino == file
    assert not list(tmp_path.glob("*.next")), "whoever closes leaves none"


async def test_a_group_that_finds_no_room_goes_to_the_next_segment(tmp_path: Path) -> None:
    batches = [[f"{name}-{n}" for n in range(20)] for name in ("one", "two")]
    async with Spool(tmp_path, roll_seconds=60) as spool:
        (tmp_path / "1.spare").write_bytes(bytes(5_000))
        for batch in batches:
            await append(spool, *batch)
        await until(lambda: ready_segments(tmp_path))
    assert [devices_in(path) for path in ready_segments(tmp_path)] == batches
    assert 2_500 < ready_segments(tmp_path)[0].stat().st_size < 5_000, "one finds room, both would not"


def damaged(*_: object) -> bytes:
    raise ValueError("the disk is damaged")


@pytest.mark.parametrize("fails", [False, True], ids=["after the last commit", "after one that failed"])
async def test_what_was_made_beforehand_is_gone_when_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr("telemetry.spool.SPARE_SECONDS", 1.0)
    async with Spool(tmp_path, roll_seconds=60 if fails else 0.02) as spool:
        await append(spool, "a")
        await until(lambda: list(tmp_path.glob("*.next")))
        (tmp_path / "1.spare").write_bytes(b"what was shipped")
        if fails:
            with monkeypatch.context() as patched:
                patched.setattr("telemetry.segment_writer.encode_group", damaged)
                with pytest.raises(SpoolClosed):
                    await append(spool, "b")
        await until(lambda: not list(tmp_path.glob("*.next")))
        await until(lambda: not spares(tmp_path))
        await append(spool, "c")
    assert [device for path in ready_segments(tmp_path) for device in devices_in(path)] == ["a", "c"]


@pytest.mark.parametrize("step", ["os.open", "os.pwritev", "os.fstat", "pathlib.Path.rename", "os.fsync"])
@pytest.mark.parametrize("over", [False, True], ids=["a new file", "a shipped one"])
def test_whatever_keeps_a_segment_from_being_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, over: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    if over:
        (tmp_path / "1.spare").write_bytes(b"what was shipped")
    writer, descriptors = SegmentWriter(tmp_path, "fsync"), len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(step, fails)
        with pytest.raises(MemoryError):
            writer.prepare()
    assert [path.suffix for path in tmp_path.iterdir()] == ([".spare"] if over and step == "os.open" else [])
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    writer.prepare()
    assert list(tmp_path.glob("*.next"))
    writer.discard_next()


async def test_one_that_cannot_be_handed_over_counts_and_is_handed_over_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    async with Spool(tmp_path, roll_seconds=0.02) as spool:
        with monkeypatch.context() as patched:
            patched.setattr("telemetry.segment_writer.close_segment", fails)
            with capture_logs() as logs:
                await append(spool, "a")
                await until(lambda: any(entry["event"] == "spool_roll_failed" for entry in logs))
        assert ready_segments(tmp_path) == []
        after = await hand_over(spool, tmp_path, "b")
        (stuck,) = tmp_path.glob("*.open")
        await until(lambda: spool.used_bytes == stuck.stat().st_size + after.stat().st_size)
    assert [devices_in(path) for path in ready_segments(tmp_path)] == [["a"], ["b"]]


async def test_what_was_committed_and_not_shipped_counts_once(tmp_path: Path) -> None:
    """However large the file is that it is written into, and whenever the full one is handed over."""
    async with Spool(tmp_path, roll_seconds=0.02) as spool:
        (tmp_path / "1.spare").write_bytes(bytes(1_000_000))
        for number in range(50):
            await append(spool, f"device-{number}")
            committed = sum(path.stat().st_size for path in ready_segments(tmp_path))
            assert spool.used_bytes <= committed + 10_000
            await asyncio.sleep(0.002)


async def test_a_spool_whose_folder_was_taken_away_gives_its_lock_back(tmp_path: Path) -> None:
    directory = tmp_path / WRITER
    spool = Spool(directory)
    await spool.start()
    shutil.rmtree(directory)
    with capture_logs() as logs:
        await spool.close()
    assert [entry["event"] for entry in logs] == ["spool_not_left_clean"]
    async with Spool(directory):
        pass


async def test_one_that_cannot_be_made_beforehand_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def full(writer: object) -> None:
        tried.append(writer)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SegmentWriter, "prepare", full)
    async with Spool(tmp_path, roll_seconds=60, segment_bytes=5_000) as spool:
        for number in range(30):
            await append(spool, f"device-{number}")
    segments = [devices_in(path) for path in ready_segments(tmp_path)]
    assert [device for segment in segments for device in segment] == [f"device-{number}" for number in range(30)]
    assert 1 < len(segments) < 10
    assert len(tried) == len(segments), "once for each, however many batches come"


async def test_after_a_power_cut_one_that_was_taken_is_recovered_under_its_first_name(tmp_path: Path) -> None:
    async with Spool(tmp_path / WRITER, roll_seconds=0.05) as spool:
        segment = await hand_over(spool, tmp_path / WRITER, "a")
    lost_name = segment.with_suffix(".next")
    segment.rename(lost_name)
    (tmp_path / WRITER / "1.next").write_bytes(lost_name.read_bytes()[: HEADER.size])  # one that was not taken
    assert recover_open_segments(tmp_path / WRITER) == 1
    (found,) = ready_segments(tmp_path / WRITER)
    assert devices_in(found) == ["a"]
    assert not list((tmp_path / WRITER).glob("*.next"))


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


@pytest.mark.parametrize("seed", range(int(os.environ.get("SKAFOS_TEST_KILLS") or "3")))
def test_a_killed_writer_loses_nothing_and_revives_nothing(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / WRITER
    shipped: Counter[str] = Counter()
    given_back: set[int] = set()
    written_over = 0

    def ship() -> None:
        nonlocal written_over
        for path in ready_segments(directory):
            shipped.update(devices_in(path))
            file = path.stat().st_ino
            written_over += file in given_back
            given_back.add(file)
            give_back(path)

    with writing_process(directory, roll_seconds=0.02, segment_bytes=SMALL) as writer:
        acknowledged: list[str] = []
        for _ in range(random.Random(seed).randint(500, 2_000)):
            acknowledged.append(writer.acknowledged())
            if len(acknowledged) % 50 == 0:
                ship()
        acknowledged += writer.kill()

    recover_open_segments(directory)
    ship()

    assert written_over > 2
    assert set(acknowledged) <= shipped.keys()
    assert max(shipped.values()) == 1
