"""The queue of patches in the database: what becomes of a job, and how wishes put it there and take it out.

A job is of a pair of artifacts and shared by every environment that wishes it. Whoever changes several jobs first locks
them, in one order, and then looks who wishes them. So of two plans at once, the second sees what the first one wished.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from artifacts.patch.build import SkipReason
from control_plane.patch_policy import PatchPolicy
from control_plane.patch_wishes import Pair, Unwanted
from control_plane.tables import PatchJob, PatchWish, new_id
from control_plane.upserts import insert_into

PENDING = "pending"
RUNNING = "running"
BUILT = "built"
# For what its bytes are, which another encoding may change; or because nobody wants it, until somebody does.
SKIPPED = "skipped"
FAILED = "failed"  # given up, after too many failures or because a version was deleted, until a deployment asks again

_FRESH: dict[str, Any] = {
    "state": PENDING,
    "code": None,
    "reason": None,
    "attempts": 0,
    "failures": 0,
    "retry_at": None,
}
_FINAL_CODES = frozenset(reason.value for reason in SkipReason)
_UNWANTED_CODES = frozenset(reason.value for reason in Unwanted)

SENTENCES = {
    Unwanted.TOO_FEW_DEVICES: "fewer active devices hold the version than SKAFOS_PATCH_MIN_DEVICE_SHARE asks for",
    Unwanted.OVER_NUMBER: "more devices hold other versions, and SKAFOS_PATCH_MAX_PER_TARGET patches are enough",
    Unwanted.OVER_SIZE: "patches for more devices fill the room that SKAFOS_PATCH_TOTAL_SHARE gives",
    Unwanted.NO_LONGER_WANTED: "no environment offers the one version to devices that hold the other",
}


def of_job() -> ColumnElement[bool]:
    """Return the condition that a wish wants a job's patch."""
    pair = (PatchWish.base_sha256 == PatchJob.base_sha256) & (PatchWish.target_sha256 == PatchJob.target_sha256)
    return pair & PatchWish.unwanted.is_(None)


def is_wanted() -> ColumnElement[bool]:
    """Return the condition that some environment wants a job's patch."""
    return select(PatchWish.rank).where(of_job()).exists()


async def lock_jobs(session: AsyncSession, which: ColumnElement[bool], skip_locked: bool = False) -> list[PatchJob]:
    """Return jobs, held until the transaction ends, in the one order in which transactions lock several of them."""
    query = select(PatchJob).where(which).order_by(PatchJob.target_sha256, PatchJob.base_sha256)
    locking = query.with_for_update(skip_locked=skip_locked).execution_options(populate_existing=True)
    return list(await session.scalars(locking))


async def hopeless_pairs(session: AsyncSession, targets: Collection[str], policy: PatchPolicy) -> set[Pair]:
    """Return the pairs of which every encoding was tried, and no patch was worth it."""
    query = select(PatchJob.base_sha256, PatchJob.target_sha256, PatchJob.tried).where(
        PatchJob.target_sha256.in_(targets), PatchJob.state == SKIPPED, PatchJob.code.in_(_FINAL_CODES)
    )
    rows = await session.execute(query)
    return {(base, target) for base, target, tried in rows if set(policy.encodings) <= set(tried)}


async def settle(
    session: AsyncSession,
    pairs: Collection[Pair],
    forgotten: Collection[Pair],
    policy: PatchPolicy,
    now: datetime,
    deployed: bool = False,
) -> None:
    """Queue what is wanted and has no end that holds, and take out of the queue what nobody wants.

    Call it once the wishes are written.

    Args:
        pairs: which jobs; those that are not there are made.
        forgotten: jobs of pairs that do not come into question any more, if they are there.
        policy: which encodings are to be tried.
        now: the present moment.
        deployed: try anew what was given up.
    """
    everything = {*pairs, *forgotten}
    if not everything:
        return
    rows = [
        {"id": new_id(), "base_sha256": base, "target_sha256": target, "state": SKIPPED, "tried": []}
        | {"code": Unwanted.NO_LONGER_WANTED, "created_at": now, "updated_at": now}
        for base, target in sorted(pairs, key=lambda pair: (pair[1], pair[0]))
    ]
    if rows:
        await session.execute(insert_into(session, PatchJob).values(rows).on_conflict_do_nothing())
    jobs = await lock_jobs(session, _of_pairs(PatchJob.base_sha256, PatchJob.target_sha256, everything))
    wished = await _wished(session, everything)
    begin: list[str] = []
    take_out: dict[Unwanted, list[str]] = {}
    for job in jobs:
        # None where an environment wants it; else why not, by those with the most devices first.
        reasons = wished.get((job.base_sha256, job.target_sha256), [Unwanted.NO_LONGER_WANTED])
        if None in reasons:
            begin += [job.id] if _may_begin(job, policy, deployed) else []
        elif job.state == PENDING or (job.state == SKIPPED and job.code in _UNWANTED_CODES):
            why = next(Unwanted(reason) for reason in reasons if reason is not None)
            take_out.setdefault(why, []).append(job.id)
    await _change(session, begin, now, **_FRESH)
    for why, ids in take_out.items():
        await skip_unwanted(session, ids, why, now)


async def take_out_unwanted(session: AsyncSession, now: datetime) -> None:
    """Take out of the queue what nobody wants because its environment or its model was deleted."""
    doubtful = await lock_jobs(session, (PatchJob.state == PENDING) & ~is_wanted(), skip_locked=True)
    if doubtful:
        # Somebody may have wished it, and committed, between the look and the lock.
        still = select(PatchJob.id).where(PatchJob.id.in_([job.id for job in doubtful]), ~is_wanted())
        await skip_unwanted(session, list(await session.scalars(still)), Unwanted.NO_LONGER_WANTED, now)


async def skip_unwanted(
    session: AsyncSession, ids: Collection[str], why: Unwanted, now: datetime, **columns: Any
) -> None:
    """Skip jobs that nobody wants, which the transaction holds."""
    await _change(session, ids, now, state=SKIPPED, code=why, reason=SENTENCES[why], **columns)


async def _change(session: AsyncSession, ids: Collection[str], now: datetime, **columns: Any) -> None:
    if ids:
        statement = update(PatchJob).where(PatchJob.id.in_(ids)).values(columns | {"updated_at": now})
        await session.execute(statement, execution_options={"synchronize_session": False})


def _may_begin(job: PatchJob, policy: PatchPolicy, deployed: bool) -> bool:
    """Say whether a job that is wanted is to be queued: because nobody wanted it, or it can end otherwise now."""
    if job.state == FAILED:
        return deployed
    if job.state == SKIPPED and job.code in _UNWANTED_CODES:
        return True
    ended = job.state == BUILT or (job.state == SKIPPED and job.code in _FINAL_CODES)
    return ended and any(name not in job.tried for name in policy.encodings)


async def _wished(session: AsyncSession, pairs: Collection[Pair]) -> dict[Pair, list[str | None]]:
    query = (
        select(PatchWish.base_sha256, PatchWish.target_sha256, PatchWish.unwanted)
        .where(_of_pairs(PatchWish.base_sha256, PatchWish.target_sha256, pairs))
        .order_by(func.coalesce(PatchWish.devices, -1).desc())
    )
    found: dict[Pair, list[str | None]] = {}
    for base, target, unwanted in await session.execute(query):
        found.setdefault((base, target), []).append(unwanted)
    return found


def _of_pairs(
    base: InstrumentedAttribute[str], target: InstrumentedAttribute[str], pairs: Collection[Pair]
) -> ColumnElement[bool]:
    return tuple_(base, target).in_(list(pairs))
