"""The spool: durable before the answer, whole after a crash, bounded, and never shared by two writers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from telemetry.segment import (
    HEADER,
    Record,
    UnreadableSegment,
    decode_segment,
    encode_header,
    encode_segment,
)
from telemetry.segment_writer import SegmentWriter
from telemetry.spool import Spool, SpoolClosed, SpoolFull, SpoolLocked
from telemetry.spool_directory import ready_segments, recover_open_segments
from tests.telemetry.samples import NOON, body, event, labels, record
from tests.telemetry.waiting import until
from tests.telemetry.writing_process import writing_process


def stored(directory: Path) -> list[Record]:
    """All records of the segments that were handed over; none may be damaged."""
    contents = [decode_segment(path.read_bytes()) for path in ready_segments(directory)]
    assert [content.damage for content in contents] == [None] * len(contents)
    return [one for content in contents for one in content.records]


async def append(spool: Spool, *events: dict[str, object]) -> None:
    await spool.append(labels(), body(*events), NOON)


async def test_an_appended_batch_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    async with Spool(tmp_path / "edge-0", roll_seconds=60) as spool:
        await append(spool, event(device="a"))

        (open_segment,) = (tmp_path / "edge-0").glob("*.open")
        assert len(decode_segment(open_segment.read_bytes()).records) == 1


async def test_a_batch_comes_out_as_it_went_in(tmp_path: Path) -> None:
    sent = event(device="a", colour="a field that nobody knows")
    async with Spool(tmp_path / "edge-0") as spool:
        await append(spool, sent)

    assert stored(tmp_path / "edge-0") == [record(sent)]


async def test_closing_hands_over_everything_that_was_appended_in_order(tmp_path: Path) -> None:
    sent = [event(device=f"device-{n}") for n in range(200)]
    async with Spool(tmp_path / "edge-0", segment_bytes=20_000) as spool:
        await asyncio.gather(*(append(spool, one) for one in sent))

    assert [one.events for one in stored(tmp_path / "edge-0")] == [body(one) for one in sent]
    assert not list((tmp_path / "edge-0").glob("*.open"))


async def test_appenders_that_arrive_together_share_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real = os.pwritev

    def counted(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int, flags: int) -> int:
        writes.append(len(pieces))
        return real(descriptor, pieces, offset, flags)

    monkeypatch.setattr(os, "pwritev", counted)
    monkeypatch.setattr(SegmentWriter, "prepare", lambda _: None)
    async with Spool(tmp_path / "edge-0") as spool:
        await asyncio.gather(*(append(spool, event()) for _ in range(100)))

    header, *commits = writes
    assert header == 1
    assert 1 <= len(commits) <= 3


async def test_an_old_segment_is_handed_over_without_another_batch(tmp_path: Path) -> None:
    async with Spool(tmp_path / "edge-0", roll_seconds=0.05) as spool:
        await append(spool, event())
        await until(lambda: ready_segments(tmp_path / "edge-0"))


async def test_a_full_spool_refuses_and_accepts_again_when_there_is_room(tmp_path: Path) -> None:
    async with Spool(tmp_path / "edge-0", max_bytes=3_000, roll_seconds=0.05) as spool:
        refusals = await asyncio.gather(*(append(spool, event()) for _ in range(100)), return_exceptions=True)
        assert {type(refusal) for refusal in refusals} == {type(None), SpoolFull}
        assert spool.used_bytes <= 3_000

        await until(lambda: ready_segments(tmp_path / "edge-0"))
        for path in ready_segments(tmp_path / "edge-0"):
            path.unlink()  # as the shipper does
        await asyncio.sleep(0.6)  # the directory is measured again after half a second
        await append(spool, event())


async def test_the_bound_counts_what_an_earlier_writer_left(tmp_path: Path) -> None:
    async with Spool(tmp_path / "edge-0") as spool:
        await append(spool, event())
    async with Spool(tmp_path / "edge-0", max_bytes=100) as spool:
        with pytest.raises(SpoolFull):
            await append(spool, event())


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.spool.MAX_PENDING_BYTES", 2_000)
    async with Spool(tmp_path / "edge-0") as spool:
        results = await asyncio.gather(*(append(spool, event()) for _ in range(100)), return_exceptions=True)
        assert {type(result) for result in results} == {type(None), SpoolFull}
        await append(spool, event())  # and once they are written, there is room again


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "full"), SpoolFull),
        (OSError(errno.EDQUOT, "full"), SpoolFull),
        (OSError(errno.EIO, "broken"), SpoolClosed),
        (MemoryError(), SpoolClosed),
    ],
    ids=["full", "over the quota", "broken", "out of memory"],
)
async def test_what_cannot_be_written_is_not_acknowledged_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, raised: type[Exception]
) -> None:
    real = os.pwritev

    def half_then_fail(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int, flags: int) -> int:
        data = b"".join(pieces)
        if b"too-much" in data:
            real(descriptor, [data[: len(data) // 2]], offset, flags)
            raise failure
        return real(descriptor, pieces, offset, flags)

    monkeypatch.setattr(os, "pwritev", half_then_fail)
    async with Spool(tmp_path / "edge-0") as spool:
        await append(spool, event(device="before"))
        with pytest.raises(raised):
            await append(spool, event(device="too-much"))
        await append(spool, event(device="after"))

    assert [one.events.count(b"too-much") for one in stored(tmp_path / "edge-0")] == [0, 0]
    assert [b"before" in one.events or b"after" in one.events for one in stored(tmp_path / "edge-0")] == [True, True]


async def test_a_disk_that_takes_no_batch_does_not_fill_with_empty_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def headers_alone(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int, flags: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, pieces, offset, flags)

    async with Spool(tmp_path / "edge-0") as spool:
        with monkeypatch.context() as full:
            full.setattr(os, "pwritev", headers_alone)
            for _ in range(3):
                with pytest.raises(SpoolFull):
                    await append(spool, event())
            assert [path.name for path in (tmp_path / "edge-0").iterdir()] == ["lock"]
        await append(spool, event(device="after"))

    assert len(stored(tmp_path / "edge-0")) == 1


def _break_the_sync(patch: pytest.MonkeyPatch) -> None:
    """Have the bytes written and the wait for the disk fail, be it one call or, where there is none, two."""
    real = os.pwritev

    def written_but_not_synced(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int, flags: int) -> int:
        real(descriptor, pieces, offset, 0)
        raise OSError(errno.EIO, "broken")

    def not_synced(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    if hasattr(os, "RWF_DSYNC"):
        patch.setattr(os, "pwritev", written_but_not_synced)
    else:
        patch.setattr(os, "fdatasync", not_synced)


async def test_a_write_that_the_disk_takes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def at_most_a_hundred_bytes(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int, flags: int) -> int:
        return real(descriptor, [b"".join(pieces)[:100]], offset, flags)

    monkeypatch.setattr(os, "pwritev", at_most_a_hundred_bytes)
    sent = [event(device=f"device-{n}") for n in range(5)]
    async with Spool(tmp_path / "edge-0") as spool:
        await asyncio.gather(*(append(spool, one) for one in sent))

    assert [one.events for one in stored(tmp_path / "edge-0")] == [body(one) for one in sent]


async def test_more_batches_than_one_call_takes_are_written_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.segment_writer._MAX_PIECES", 6)
    sent = [event(device=f"device-{n}") for n in range(20)]
    async with Spool(tmp_path / "edge-0") as spool:
        await asyncio.gather(*(append(spool, one) for one in sent))

    assert [one.events for one in stored(tmp_path / "edge-0")] == [body(one) for one in sent]


@pytest.mark.parametrize("synced", [True, False], ids=["one call", "two calls"])
async def test_what_is_durable_is_synced_with_one_call_or_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    if not synced:
        monkeypatch.setattr("telemetry.segment_writer._SYNCED_WRITE", 0)
    seen: list[str] = []
    write, sync = os.pwritev, os.fdatasync

    def written(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int, flags: int) -> int:
        seen.append("synced write" if flags else "write")
        return write(descriptor, pieces, offset, flags)

    def waited(descriptor: int) -> None:
        seen.append("sync")
        sync(descriptor)

    monkeypatch.setattr(os, "pwritev", written)
    monkeypatch.setattr(os, "fdatasync", waited)
    monkeypatch.setattr(SegmentWriter, "prepare", lambda _: None)  # its writes would be among those of the commit
    async with Spool(tmp_path / "edge-0") as spool:
        await append(spool, event())
        assert seen == (["synced write"] * 2 if synced else ["write", "sync"] * 2)


async def test_a_spool_that_leaves_durability_to_the_system_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.segment_writer._SYNCED_WRITE", 0)
    monkeypatch.setattr(os, "fdatasync", lambda _: pytest.fail("it waited"))
    async with Spool(tmp_path / "edge-0", durability="os") as spool:
        await append(spool, event())

    assert len(stored(tmp_path / "edge-0")) == 1


async def test_one_who_cannot_take_the_word_does_not_keep_it_from_the_others(tmp_path: Path) -> None:
    told: list[Exception | None] = []

    def fails(_: Exception | None) -> None:
        raise RuntimeError("not at home")

    async with Spool(tmp_path / "edge-0") as spool:
        spool.submit(labels(), body(event()), 0, fails)
        spool.submit(labels(), body(event()), 0, told.append)

    assert told == [None]


async def test_a_failed_sync_is_not_acknowledged_and_the_file_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Spool(tmp_path / "edge-0", roll_seconds=60) as spool:
        await append(spool, event(device="before"))
        with monkeypatch.context() as broken:
            _break_the_sync(broken)
            with pytest.raises(SpoolClosed):
                await append(spool, event(device="lost"))
        await append(spool, event(device="after"))

    assert len(ready_segments(tmp_path / "edge-0")) == 2
    assert [b"lost" in one.events for one in stored(tmp_path / "edge-0")] == [False, False]


async def test_a_directory_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.spool.LOCK_WAIT_SECONDS", 0.1)
    async with Spool(tmp_path / "edge-0"):
        with pytest.raises(SpoolLocked):
            await Spool(tmp_path / "edge-0").start()


async def test_a_closed_spool_takes_nothing(tmp_path: Path) -> None:
    async with Spool(tmp_path / "edge-0") as spool:
        pass
    with pytest.raises(SpoolClosed):
        await append(spool, event())


@pytest.mark.parametrize("lines", [1, 20, 333])
def test_every_acknowledged_batch_survives_a_killed_writer(tmp_path: Path, lines: int) -> None:
    with writing_process(tmp_path / "edge-0", roll_seconds=0.05) as writer:
        acknowledged = [writer.acknowledged() for _ in range(lines)]
        acknowledged += writer.kill()

    recover_open_segments(tmp_path / "edge-0")

    found = [json.loads(one.events)[0]["device_id"] for one in stored(tmp_path / "edge-0")]
    assert set(acknowledged) <= set(found)
    assert len(set(found)) == len(found)


def segment_of(*records: Record) -> bytes:
    return encode_segment(b"i" * 16, records)


THREE = [record(event(device=f"device-{n}")) for n in range(3)]
# The group of each was committed by itself.
SEPARATE = segment_of(THREE[0]) + b"".join(segment_of(one)[HEADER.size :] for one in THREE[1:])
ENDS = [HEADER.size, *accumulate((len(segment_of(one)) - HEADER.size for one in THREE), initial=HEADER.size)][1:]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SEPARATE)))
def test_a_segment_cut_anywhere_gives_its_whole_records_and_is_said_to_be_torn(length: int) -> None:
    data = SEPARATE[:length]
    if length < HEADER.size:
        with pytest.raises(UnreadableSegment):
            decode_segment(data)
        return

    content = decode_segment(data)

    assert list(content.records) == THREE[: len(content.records)]
    assert content.length == ENDS[len(content.records)]
    assert (content.damage is None) == (content.length == length)
    assert content.damage is None or content.damage.torn


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SEPARATE) - 1), st.integers(1, 255))
def test_a_flipped_bit_is_noticed_and_nothing_false_is_read(place: int, change: int) -> None:
    data = bytearray(SEPARATE)
    data[place] ^= change
    if place < HEADER.size:
        with pytest.raises(UnreadableSegment):
            decode_segment(bytes(data))
        return

    content = decode_segment(bytes(data))

    assert content.damage is not None
    assert list(content.records) == THREE[: len(content.records)]
    # What nobody was told of can only be at the end.
    assert content.damage.torn == (place >= ENDS[2])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3), st.integers(0, 400), st.binary(max_size=20))
def test_what_an_older_segment_left_behind_a_newer_one_is_never_read(groups: int, torn: int, noise: bytes) -> None:
    older = encode_segment(b"o" * 16, [record(event(device=f"older-{n}")) for n in range(9)])
    begun = SEPARATE[: ENDS[groups]] + SEPARATE[ENDS[groups] :][:torn]
    written_over = begun + noise + older[len(begun) + len(noise) :]

    content = decode_segment(written_over)

    assert list(content.records) == THREE[: len(content.records)]
    assert len(content.records) >= groups
    assert content.damage is not None
    assert content.damage.torn or content.length < len(begun)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_segment_or_unreadable(noise: bytes) -> None:
    for data in (noise, encode_header(b"i" * 16) + noise):
        try:
            decode_segment(data)
        except UnreadableSegment:
            continue


@pytest.mark.parametrize(
    ("left", "recovered"),
    [
        (b"", 0),
        (bytes(40), 0),
        (encode_header(b"i" * 16), 0),
        (encode_header(b"i" * 16) + b"\x09\x00", 0),
        (segment_of(THREE[0]), 1),
        (SEPARATE[:-1], 2),
        (segment_of(*THREE) + b"torn", 3),
        (segment_of(*THREE) + bytes(500), 3),
        (segment_of(*THREE) + segment_of(*THREE).replace(b"i" * 16, b"o" * 16), 3),
        (encode_header(b"i" * 16) + segment_of(*THREE)[HEADER.size :].replace(b"i" * 16, b"o" * 16), 0),
    ],
    ids=[
        "empty",
        "zeros",
        "header",
        "torn first group",
        "whole",
        "torn last group",
        "torn tail",
        "zeros at the end",
        "an older segment behind it",
        "an older segment alone",
    ],
)
def test_recovery_keeps_whole_records_and_throws_away_what_was_never_promised(
    tmp_path: Path, left: bytes, recovered: int
) -> None:
    (tmp_path / "0001-a.open").write_bytes(left)

    recover_open_segments(tmp_path)

    assert len(stored(tmp_path)) == recovered
    assert not list(tmp_path.glob("*.open"))


def test_recovery_throws_nothing_away_that_it_cannot_read(tmp_path: Path) -> None:
    damaged = SEPARATE.replace(b"device-1", b"device-?")
    (tmp_path / "0001-a.open").write_bytes(b"something else")
    (tmp_path / "0002-a.open").write_bytes(damaged)

    recover_open_segments(tmp_path)

    assert [path.read_bytes() for path in ready_segments(tmp_path)] == [
        b"something else",
        damaged,
    ]


async def test_the_bytes_in_use_are_told_as_they_are_when_somebody_asks(tmp_path: Path) -> None:
    async with Spool(tmp_path / "edge-0", roll_seconds=60) as spool:
        await append(spool, event())
        (segment,) = (tmp_path / "edge-0").glob("*.open")
        assert REGISTRY.get_sample_value("skafos_spool_used_bytes") == segment.stat().st_size
        await spool.close()
        (handed_over,) = (tmp_path / "edge-0").glob("*.ready")
        handed_over.unlink()  # as a shipper does
        assert REGISTRY.get_sample_value("skafos_spool_used_bytes") == 0
    shutil.rmtree(tmp_path / "edge-0")
    assert REGISTRY.get_sample_value("skafos_spool_used_bytes") is not None
