"""Segments that were shipped are written over by their writer, and nothing of what they held is ever read again.

The last test kills the writer; ``make test-kills KILLS=50`` kills it as often as that.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread, current_thread

import pytest

from telemetry import spare_segments
from telemetry.segment import HEADER, decode_segment, encode_lead
from telemetry.segment_writer import SegmentWriter
from telemetry.spare_segments import MAX_SPARES, MIN_SPARE_BYTES, SPARE_SECONDS, give_back, remove_spares, spares
from telemetry.spool import Spool
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


async def hand_over(spool: Spool, *devices: str) -> Path:
    """Append a batch; return the segment that it comes in, when the one after that is made ready as well."""
    await append(spool, *devices)
    await until(lambda: ready_segments(spool.directory) and list(spool.directory.glob("*.next")))
    (segment,) = ready_segments(spool.directory)
    assert devices_in(segment) == list(devices)
    return segment


async def test_a_segment_that_was_shipped_is_written_over(tmp_path: Path) -> None:
    async with Spool(tmp_path / WRITER, roll_seconds=0.05) as spool:
        first = await hand_over(spool, *(f"old-{n}" for n in range(20)))
        file = first.stat()
        give_back(first)
        assert [path.stat().st_ino for path in spares(tmp_path / WRITER)] == [file.st_ino]
        (await hand_over(spool, "between")).unlink()  # into the one that was made ready before
        assert spares(tmp_path / WRITER) == []

        second = await hand_over(spool, "new")
        assert second.stat().st_ino == file.st_ino
        assert second.stat().st_size < file.st_size, "what was behind it is cut off"
        give_back(second)
        (await hand_over(spool, "between")).unlink()
        third = await hand_over(spool, *(f"longer-{n}" for n in range(30)))
        assert third.stat().st_ino == file.st_ino


async def test_the_next_segment_is_made_beforehand_and_taken_by_the_next_commit(tmp_path: Path) -> None:
    async with Spool(tmp_path / WRITER, roll_seconds=0.05) as spool:
        await hand_over(spool, "a")
        (ahead,) = (tmp_path / WRITER).glob("*.next")
        file = ahead.stat().st_ino
        for path in ready_segments(tmp_path / WRITER):
            path.unlink()
        assert (await hand_over(spool, "b")).stat().st_ino == file
    assert not list((tmp_path / WRITER).glob("*.next")), "whoever closes leaves none"


async def test_a_group_that_finds_no_room_goes_to_the_next_segment(tmp_path: Path) -> None:
    def batch(name: str) -> list[str]:
        return [f"{name}-{n}" for n in range(20)]

    async with Spool(tmp_path / WRITER, roll_seconds=0.2) as spool:
        first = await hand_over(spool, *batch("old"))
        size = first.stat().st_size
        give_back(first)
        (await hand_over(spool, "between")).unlink()

        await append(spool, *batch("one"))  # into the room of the first
        (segment,) = (tmp_path / WRITER).glob("*.open")
        assert segment.stat().st_size == size
        await append(spool, *batch("two"))
        await until(lambda: len(ready_segments(tmp_path / WRITER)) == 2)

    assert [devices_in(path) for path in ready_segments(tmp_path / WRITER)] == [batch("one"), batch("two")]


def test_two_threads_never_begin_in_the_same_shipped_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.spare").write_bytes(b"what was shipped" * 100)
    writer = SegmentWriter(tmp_path, "fsync")
    beside, real, opened, committed = Thread(target=writer.prepare), os.pwritev, Event(), Event()

    def write(descriptor: int, pieces: Sequence[bytes], offset: int, flags: int) -> int:
        if current_thread() is beside:
            opened.set()
            committed.wait(0.3)  # as long as it takes if nothing holds the commit
        return real(descriptor, pieces, offset, flags)

    monkeypatch.setattr(os, "pwritev", write)
    beside.start()
    assert opened.wait(10)
    events = body(event(device="a"))
    lead = encode_lead(labels(), 0, events)
    writer.commit([lead, events], len(lead) + len(events))
    committed.set()
    beside.join()

    writer.detach().hand_over()  # type: ignore[union-attr]
    (segment,) = ready_segments(tmp_path)
    assert devices_in(segment) == ["a"]


async def test_what_was_made_beforehand_is_gone_when_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.spool.SPARE_SECONDS", 0.1)
    async with Spool(tmp_path / WRITER, roll_seconds=0.02) as spool:
        (await hand_over(spool, "a")).unlink()
        await until(lambda: not list((tmp_path / WRITER).glob("*.next")))
        await hand_over(spool, "b")


async def test_one_that_cannot_be_made_beforehand_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SegmentWriter, "prepare", full)
        async with Spool(tmp_path / WRITER, roll_seconds=0.02) as spool:
            for device in ("a", "b"):
                await append(spool, device)
                await until(lambda: ready_segments(tmp_path / WRITER))
                (segment,) = ready_segments(tmp_path / WRITER)
                assert devices_in(segment) == [device]
                segment.unlink()


async def test_after_a_power_cut_one_that_was_taken_is_recovered_under_its_first_name(tmp_path: Path) -> None:
    async with Spool(tmp_path / WRITER, roll_seconds=0.05) as spool:
        segment = await hand_over(spool, "a")
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
    reused = 0

    def ship() -> None:
        nonlocal reused
        for path in ready_segments(directory):
            shipped.update(devices_in(path))
            before = len(spares(directory))
            give_back(path)
            reused += len(spares(directory)) > before

    with writing_process(directory, roll_seconds=0.02, segment_bytes=SMALL) as writer:
        acknowledged: list[str] = []
        for _ in range(random.Random(seed).randint(500, 2_000)):
            acknowledged.append(writer.acknowledged())
            if len(acknowledged) % 50 == 0:
                ship()
        acknowledged += writer.kill()

    recover_open_segments(directory)
    ship()

    assert reused > 2
    assert set(acknowledged) <= shipped.keys()
    assert max(shipped.values()) == 1
