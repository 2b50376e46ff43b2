"""What became of each device that a push was sent to, in blocks.

Of a million devices a row each takes 200 bytes a device, more than all the rest of the database, and that for every
push. So the devices of a slice are one block: their ids, outcomes and moments side by side, compressed, at a tenth of
that (ADR 27). A block is written in the transaction that records its slice, and once more when a slice that was
interrupted goes on. Blocks are in the order of their devices, so a page begins at a block and a place within it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from backports.zstd import compress, decompress
from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.errors import Missing
from control_plane.push.channel import Outcome
from control_plane.tables import PushJob, PushLog

KEPT_LOGS: Final = 20
"""Pushes of an environment whose logs are kept, the newest: at 23 bytes a device, half a gigabyte for a million."""
BLOCKS_AT_ONCE: Final = 16
"""Blocks that are read in one go, of some 50 kB each. A page is mostly of one; of rare outcomes it may be of all."""

_LETTERS: Final = {Outcome.ACCEPTED: "A", Outcome.GONE: "G", Outcome.REFUSED: "R", Outcome.UNKNOWN: "U"}
_OUTCOMES: Final = {letter: outcome for outcome, letter in _LETTERS.items()}
_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """A device that was sent to: what became of it, why, and when it was sent to."""

    device_id: str = field(repr=False)
    outcome: Outcome
    reason: str
    sent_at: datetime


def entry(device_id: str, outcome: Outcome, reason: str, sent_at: datetime) -> Entry:
    """Return an entry as logs keep it: its moment to the millisecond."""
    return Entry(device_id, outcome, reason, _EPOCH + (sent_at - _EPOCH) // _MILLISECOND * _MILLISECOND)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ends: in the block behind a device, at the last one shown."""

    after: str
    device_id: str


def require_log(job: PushJob) -> None:
    """Refuse to go on where the log of a push is not kept.

    Raises:
        Missing: it was forgotten, or the push is older than logs are.
    """
    if job.log_forgotten_at is not None:
        raise Missing(
            f"The devices of this push are not known any more: an environment's last {KEPT_LOGS} pushes have theirs.",
            "log_forgotten",
        )


def pack(entries: Sequence[Entry]) -> bytes:
    """Return a block of entries; moments are kept to the millisecond."""
    moments = [(entry.sent_at - _EPOCH) // _MILLISECOND for entry in entries]
    first = min(moments, default=0)
    columns = {
        "devices": [entry.device_id for entry in entries],
        "outcomes": "".join(_LETTERS[entry.outcome] for entry in entries),
        "reasons": {place: entry.reason for place, entry in enumerate(entries) if entry.reason},
        "first": first,
        "moments": [moment - first for moment in moments],
    }
    return compress(orjson.dumps(columns, option=orjson.OPT_NON_STR_KEYS))


def unpack(packed: bytes) -> list[Entry]:
    """Return the entries of a block."""
    columns = orjson.loads(decompress(packed))
    first, reasons = columns["first"], columns["reasons"]
    rows = zip(columns["devices"], columns["outcomes"], columns["moments"], strict=True)
    return [
        Entry(device_id, _OUTCOMES[letter], reasons.get(str(place), ""), _EPOCH + (first + moment) * _MILLISECOND)
        for place, (device_id, letter, moment) in enumerate(rows)
    ]


async def add_to_log(session: AsyncSession, job_id: str, after: str, last: str, entries: Iterable[Entry]) -> None:
    """Add what was sent of a slice; call it where the job is locked."""
    given = {entry.device_id: entry for entry in entries}
    if not given:
        return
    block = await session.get(PushLog, (job_id, after))
    if block is None:
        session.add(PushLog(job_id=job_id, after=after, last=last, **_columns(given.values())))
    else:
        _change(block, ({entry.device_id: entry for entry in unpack(block.packed)} | given).values())


async def fetch_log(
    session: AsyncSession, job_id: str, outcome: Outcome | None, place: Place | None, limit: int
) -> tuple[list[Entry], Place | None]:
    """Return the entries after a place, in the order of the devices, and where the next page begins.

    Args:
        outcome: only of this one.
        place: where the page before ended; None for the first.
        limit: how many at most.

    Returns:
        The entries, and None in place of a place when there are no more.
    """
    query = select(PushLog.after, PushLog.packed).where(PushLog.job_id == job_id).order_by(PushLog.after)
    if outcome is not None:
        query = query.where(_count_of(outcome) > 0)
    found: list[tuple[str, Entry]] = []
    start = None if place is None else place.after
    first = True
    while True:
        behind = query if start is None else query.where(PushLog.after >= start if first else PushLog.after > start)
        blocks = (await session.execute(behind.limit(BLOCKS_AT_ONCE))).all()
        for after, packed in blocks:
            shown = place.device_id if place is not None and place.after == after else ""
            found += [
                (after, entry)
                for entry in unpack(packed)
                if entry.device_id > shown and outcome in (None, entry.outcome)
            ]
            if len(found) > limit:
                last_block, last = found[limit - 1]
                return [entry for _, entry in found[:limit]], Place(last_block, last.device_id)
        if len(blocks) < BLOCKS_AT_ONCE:
            return [entry for _, entry in found], None
        start, first = blocks[-1].after, False


async def forget_device(session: AsyncSession, environments: Select[Any], device_id: str) -> None:
    """Take a device out of the logs of all pushes.

    Args:
        environments: the ids of those whose pushes are looked through.
    """
    query = (
        select(PushLog)
        .join(PushJob, PushJob.id == PushLog.job_id)
        .where(PushJob.environment_id.in_(environments.scalar_subquery()))
        .where(PushLog.after < device_id, PushLog.last >= device_id)
        .with_for_update(of=PushLog)
    )
    for block in (await session.scalars(query)).all():
        entries = unpack(block.packed)
        rest = [entry for entry in entries if entry.device_id != device_id]
        if not rest:
            await session.delete(block)
        elif len(rest) < len(entries):
            _change(block, rest)


async def forget_old_logs(session: AsyncSession, now: datetime, keep: timedelta) -> int:
    """Forget the logs of all but an environment's newest pushes, and of those that are too old; return how many.

    Args:
        now: the present moment.
        keep: how long a log is kept at the most: as long as the events of devices.
    """
    place = func.row_number().over(partition_by=PushJob.environment_id, order_by=PushJob.created_at.desc())
    ranked = select(PushJob.id, PushJob.created_at, place.label("place")).where(PushJob.log_forgotten_at.is_(None))
    jobs = ranked.subquery()
    old = select(jobs.c.id).where(or_(jobs.c.place > KEPT_LOGS, jobs.c.created_at < now - keep))
    ended = select(PushJob.id).where(PushJob.id.in_(old), PushJob.finished_at.is_not(None))
    forgotten = list(await session.scalars(ended))
    if forgotten:
        await session.execute(delete(PushLog).where(PushLog.job_id.in_(forgotten)))
        await session.execute(update(PushJob).where(PushJob.id.in_(forgotten)).values(log_forgotten_at=now))
    return len(forgotten)


def _columns(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return what a block's row holds."""
    ordered = sorted(entries, key=lambda entry: entry.device_id)
    counts = Counter(entry.outcome for entry in ordered)
    return {outcome.value: counts[outcome] for outcome in Outcome} | {
        "last_sent_at": max(entry.sent_at for entry in ordered),
        "packed": pack(ordered),
    }


def _change(block: PushLog, entries: Iterable[Entry]) -> None:
    for name, value in _columns(entries).items():
        setattr(block, name, value)


def _count_of(outcome: Outcome) -> Any:
    return getattr(PushLog, outcome.value)
