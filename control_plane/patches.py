"""Patches made in the background: a queue in the database, and a process for each patch that is made.

Which patches are wanted is planned (`control_plane.patch_plan`). The builder claims their jobs one by one, those first
that most devices wait for, fetches both artifacts, has a process of its own make and prove the patch in each encoding
that is to be tried, stores the smallest and then the row that names it, and has every environment that offers the
target signed anew. Between patches there is no process. An encoding whose process dies keeps no other from being
offered.

A job that failed waits before it is tried again, longer each time, and the row says until when and why: a process that
was killed may have room later, and an object store that is away comes back. Only after many failures it is given up,
and the next deployment that wants the patch has it tried anew.

A claimed job shows that it is alive by touching its row. One that stopped doing so, because its control plane died, is
taken up again, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from artifacts.encodings import Encoded
from artifacts.errors import BlobMissing, StoreUnavailable
from artifacts.patch.build import Built, PatchLimits, Skipped, SkipReason, best, build_patch
from artifacts.store import ObjectStore
from control_plane import tables
from control_plane.database import Database
from control_plane.encodings import record_encodings
from control_plane.errors import Missing, Unavailable
from control_plane.isolated import TookTooLong, call_isolated
from control_plane.metrics import PATCH_JOBS_ENDED, PATCH_JOBS_WAITING, PATCHES_SKIPPED
from control_plane.patch_jobs import (
    BUILT,
    FAILED,
    PENDING,
    RUNNING,
    SENTENCES,
    SKIPPED,
    is_wanted,
    lock_jobs,
    of_job,
    take_out_unwanted,
)
from control_plane.patch_policy import BUILD_SECONDS, PatchPolicy
from control_plane.patch_room import has_room, is_crowded
from control_plane.patch_wishes import Pair, Unwanted
from control_plane.publish import Publisher
from control_plane.tables import ArtifactEncoding, ModelVersion, PatchJob, PatchPlan, PatchWish, utc_now
from control_plane.waiting import is_set_within
from telemetry.cancellation import heed_cancellation

# A deployment wakes the builder; this is for jobs that another control plane left behind.
POLL_SECONDS = 10.0
# How often a running job touches its row, and after how long without that it counts as abandoned.
HEARTBEAT_SECONDS = 10.0
ABANDONED_AFTER = timedelta(seconds=60)
# A patch that killed its process (for want of memory, say) five times, over some eight minutes, will do so again.
MAX_ATTEMPTS = 5
# Failures that are not the patch's own, of the object store or the disk, may last: this many take two days.
MAX_FAILURES = 50
# The pause before a job is tried again: as long as a process needs to be started again or a link to come back, and
# doubled by each failure up to what costs nothing and is still soon after an outage of hours.
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
REASON_LENGTH = 255

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed patch job: from which artifact to which, and the encodings whose outcome is known."""

    id: str
    base: str
    target: str
    attempts: int
    failures: int
    tried: tuple[str, ...] = ()

    @property
    def pair(self) -> Pair:
        """From which artifact to which."""
        return self.base, self.target


@dataclass(frozen=True, slots=True)
class _End:
    """How a job ended.

    Args:
        code: why it was skipped, in a word; `reason` says it for people.
        length: of the smallest patch, in bytes; of one that found no room, of all that would have been stored.
        tried: the encodings whose outcome is known now.
    """

    state: str
    code: str | None = None
    reason: str | None = None
    length: int | None = None
    tried: tuple[str, ...] = ()


class _Incomplete(Exception):
    """An encoding could not be tried to its end; what the others gave is recorded."""


class PatchBuilder:
    """Works through the queue of patches.

    Args:
        database: holds the queue.
        objects: holds the artifacts, and takes the patches.
        publisher: tells when there is something to do, and publishes what was made.
        work_dir: on a local disk with room for four artifacts for each worker; emptied at the start.
        limits: memory for making and for applying a patch.
        workers: how many patches are made at once.
        clock: tells the present moment.
        policy: which encodings are tried, and how much room there is.
        seconds: how long making a patch in one encoding may take.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        publisher: Publisher,
        work_dir: Path,
        limits: PatchLimits | None = None,
        workers: int = 1,
        clock: Callable[[], datetime] = utc_now,
        policy: PatchPolicy | None = None,
        seconds: float = BUILD_SECONDS,
    ) -> None:
        self._database = database
        self._objects = objects
        self._publisher = publisher
        self._work_dir = work_dir
        self._limits = limits or PatchLimits()
        self._workers = workers
        self._clock = clock
        self._policy = policy or PatchPolicy()
        self._seconds = seconds

    async def run(self) -> None:
        """Make patches until cancelled; a patch under way is then put back."""
        await asyncio.to_thread(_make_empty, self._work_dir)
        while True:
            self._publisher.patches_planned.clear()
            try:
                await self.work_through()
            except Unavailable as error:
                _log.warning("patches_postponed", reason=str(error))
            except Exception:  # a fault in one round must not end the making of all patches
                _log.exception("patch_round_failed")
            heed_cancellation()
            await is_set_within(self._publisher.patches_planned, POLL_SECONDS)

    async def work_through(self) -> None:
        """Make every patch that waits and whose pause is over.

        Raises:
            Unavailable: the database does not answer; jobs that were claimed are taken up later.
        """
        await self._take_up_abandoned(self._clock())
        results = await asyncio.gather(*(self._work() for _ in range(self._workers)), return_exceptions=True)
        for error in results:
            if error is not None:
                raise error

    async def _work(self) -> None:
        while job := await self._claim():
            await self._do(job)

    async def _do(self, job: Job) -> None:
        """Make one patch, and record how that ended."""
        try:
            async with self._alive(job):
                end = await self._make(job)
        except (Unavailable, asyncio.CancelledError):
            # The database is away, or we are shutting down: not the job's fault, and it goes on when we do.
            await self._change(job, state=PENDING, attempts=job.attempts - 1)
            raise
        except (StoreUnavailable, BlobMissing, OSError) as error:
            # The artifacts are there as long as their versions are, so the store or our disk is what fails.
            await self._failed(job, error, attempts=job.attempts - 1)
        except Exception as error:  # whatever it is, the next job must not wait for ever behind this one
            await self._failed(job, error, attempts=job.attempts)
        else:
            await self._end(job, end)

    async def _make(self, job: Job) -> _End:
        """Make what is missing of a pair's patches, and publish it; return how the job ends.

        Raises:
            _Incomplete: an encoding's process died; patches in others are published.
        """
        made = await self._made(job)
        missing = [name for name in self._policy.encodings if name not in job.tried and name not in made]
        died: Exception | None = None
        end = _End(BUILT, length=min(made.values(), default=None), tried=(*job.tried, *made))
        if missing:
            if (refused := await self._needless(job)) is not None:
                return end if made else refused
            with _folder_in(self._work_dir) as folder:
                outcomes, died = await self._try(job, folder, missing)
                end = await self._keep(job, made, outcomes)
        if end.state == BUILT:
            await self._publish(job.target)
        if died is not None:
            raise _Incomplete(str(died) or type(died).__name__) from died
        return end

    async def _try(
        self, job: Job, folder: Path, encodings: Sequence[str]
    ) -> tuple[dict[str, Built | Skipped], Exception | None]:
        """Try encodings, each in a process of its own; return what came of each, and what ended the first that died."""
        base, target = folder / "base", folder / "target"
        await self._objects.fetch_to(job.base, base)
        await self._objects.fetch_to(job.target, target)
        full_length = await self._full_length(job.target)
        outcomes: dict[str, Built | Skipped] = {}
        died: Exception | None = None
        for name in encodings:
            call = partial(
                build_patch, base, target, folder / name, self._limits, full_length=full_length, encoding=name
            )
            try:
                outcomes[name] = await call_isolated(call, self._seconds)
            except TookTooLong as error:
                outcomes[name] = Skipped(SkipReason.TOO_COSTLY, f"{error}")
            except (OSError, StoreUnavailable):
                raise
            except Exception as error:
                _log.warning("encoding_failed", encoding=name, base=job.base, target=job.target, error=repr(error))
                died = died or error
        return outcomes, died

    async def _keep(self, job: Job, made: dict[str, int], outcomes: dict[str, Built | Skipped]) -> _End:
        """Store and record the patches that are to be offered; return how the job ends.

        Args:
            made: lengths of the pair's patches that are recorded already, by encoding.
            outcomes: of the encodings that were tried now, by their names.
        """
        tried = (*job.tried, *outcomes)
        chosen = self._chosen(list(outcomes.values()), min(made.values(), default=None))
        length = min([*made.values(), *(patch.length for patch in chosen)], default=None)
        if chosen:
            for patch in chosen:
                await self._objects.put_file(patch.sha256, patch.path)
            refused = await self._record(job, chosen, sum(made.values()))
            if refused is not None and not made:
                return refused
            smallest = min(made.values()) if refused is not None else length
            return _End(BUILT, length=smallest, tried=tried)
        if made or not outcomes:
            return _End(BUILT, length=length, tried=tried)
        skipped = best(list(outcomes.values()))
        assert isinstance(skipped, Skipped)
        return _End(SKIPPED, skipped.reason, skipped.detail, tried=tried)

    def _chosen(self, outcomes: Sequence[Built | Skipped], smallest: int | None) -> list[Encoded]:
        """Return the patches to offer: all, or the smallest if it is smaller than what is offered already."""
        built = [outcome for outcome in outcomes if isinstance(outcome, Built)]
        if self._policy.every_encoding or not built:
            return [outcome.encoded for outcome in built]
        found = best(built)
        assert isinstance(found, Built)
        return [found.encoded] if smallest is None or found.encoded.length < smallest else []

    async def _publish(self, target: str) -> None:
        """Have every environment that offers the target list the patch."""
        async with self._database.read() as session:
            query = (
                select(tables.Release.environment_id)
                .join(ModelVersion, ModelVersion.id == tables.Release.model_version_id)
                .where(ModelVersion.artifact_sha256 == target)
                .distinct()
            )
            environment_ids = list(await session.scalars(query))
        for environment_id in environment_ids:
            with suppress(Missing):
                await self._publisher.republish(environment_id)

    # --- Artifacts as the database knows them ---------------------------------------------------------------------

    async def _made(self, job: Job) -> dict[str, int]:
        """Return the lengths of the pair's patches that are recorded, by encoding."""
        of_pair = ArtifactEncoding.artifact_sha256 == job.target, ArtifactEncoding.base_sha256 == job.base
        async with self._database.read() as session:
            query = select(ArtifactEncoding.name, ArtifactEncoding.length).where(*of_pair)
            return {row.name: row.length for row in await session.execute(query)}

    async def _full_length(self, artifact: str) -> int:
        """Return the length of the smallest encoding that needs no base; 0 when there is none any more."""
        full = ArtifactEncoding.artifact_sha256 == artifact, ArtifactEncoding.base_sha256 == ""
        async with self._database.read() as session:
            return await session.scalar(select(func.min(ArtifactEncoding.length)).where(*full)) or 0

    async def _needless(self, job: Job) -> _End | None:
        """Return the end of a job whose patch could not be kept at any length; None when it is worth a try."""
        async with self._database.read() as session:
            if not await self._is_wanted(session, job):
                return _unwanted(Unwanted.NO_LONGER_WANTED)
            return None if await has_room(session, job.pair, 1, self._policy) else _unwanted(Unwanted.OVER_SIZE)

    async def _record(self, job: Job, patches: Sequence[Encoded], beside: int) -> _End | None:
        """Record patches whose blobs are stored; return the job's end if they find no room after all.

        What is refused is freed by `control_plane.garbage`.

        Args:
            beside: bytes of the pair's patches that are recorded already.
        """
        full = ArtifactEncoding.artifact_sha256 == job.target, ArtifactEncoding.base_sha256 == ""
        length = beside + sum(patch.length for patch in patches)
        async with self._database.write() as session:
            # Held, so that of two patches to one artifact the second sees what the first one took.
            await session.execute(select(ArtifactEncoding.id).where(*full).with_for_update())
            if not await self._is_wanted(session, job):
                return _unwanted(Unwanted.NO_LONGER_WANTED)
            if not await has_room(session, job.pair, length, self._policy):
                # Its length keeps it from being made again before there is room.
                return _unwanted(Unwanted.OVER_SIZE, length)
            await record_encodings(session, job.target, patches)
            crowded = await is_crowded(session, job.target, self._policy)
        if crowded:
            await self._look_again(job.target)
        return None

    async def _is_wanted(self, session: AsyncSession, job: Job) -> bool:
        return await session.scalar(select(PatchJob.id).where(PatchJob.id == job.id, is_wanted())) is not None

    async def _look_again(self, target: str) -> None:
        """Have the plans that want patches to an artifact looked at: one of them has lost its room to another."""
        wishing = select(PatchWish.environment_id, PatchWish.model_id).where(PatchWish.target_sha256 == target)
        place = tuple_(PatchPlan.environment_id, PatchPlan.model_id)
        async with self._database.write() as session:
            # What another transaction holds is being planned, and will be again.
            plans = select(PatchPlan).where(place.in_(wishing)).with_for_update(skip_locked=True)
            for plan in await session.scalars(plans):
                plan.look_at = min(plan.look_at, self._clock())
        self._publisher.looks_due.set()

    # --- The queue ------------------------------------------------------------------------------------------------

    async def _claim(self) -> Job | None:
        """Take the job that most devices wait for of those that are due; no two builders take the same."""
        async with self._database.write() as session:
            waiting = select(func.count()).where(PatchJob.state.in_((PENDING, RUNNING)))
            PATCH_JOBS_WAITING.set(await session.scalar(waiting) or 0)
            due = or_(PatchJob.retry_at.is_(None), PatchJob.retry_at <= self._clock())
            devices = select(func.coalesce(func.sum(PatchWish.devices), 0)).where(of_job()).correlate(PatchJob)
            rank = select(func.min(PatchWish.rank)).where(of_job()).correlate(PatchJob)
            urgency = devices.scalar_subquery().desc(), rank.scalar_subquery()
            query = (
                select(PatchJob)
                .where(PatchJob.state == PENDING, due, is_wanted())
                .order_by(*urgency, PatchJob.created_at, PatchJob.id)
                .limit(1)
            )
            row = await session.scalar(query.with_for_update(skip_locked=True))
            if row is None:
                return None
            row.state = RUNNING
            row.attempts += 1
            row.updated_at = self._clock()
            return Job(row.id, row.base_sha256, row.target_sha256, row.attempts, row.failures, tuple(row.tried))

    async def _failed(self, job: Job, error: Exception, attempts: int) -> None:
        """Put a job back for later, or give it up; a pair that has a patch keeps it."""
        reason, failures = str(error) or type(error).__name__, job.failures + 1
        _log.warning("patch_failed", base=job.base, target=job.target, error=repr(error), failures=failures)
        counts = {"attempts": attempts, "failures": failures}
        if not await self._lives(job):
            gone = "deleted: a version that it is from or leads to is gone"
            await self._end(job, _End(FAILED, reason=gone), **counts)
        elif attempts >= MAX_ATTEMPTS or failures >= MAX_FAILURES:
            given_up = f"failed {failures} times: {reason}"
            made = await self._made(job)
            if made:
                end = _End(BUILT, None, given_up, min(made.values()), self._policy.encodings)
            else:
                end = _End(FAILED, reason=given_up)
            await self._end(job, end, **counts)
        else:
            retry_at = self._clock() + pause_after(failures)
            await self._change(job, state=PENDING, reason=reason[:REASON_LENGTH], retry_at=retry_at, **counts)

    async def _lives(self, job: Job) -> bool:
        """Say whether versions still have both artifacts."""
        query = select(func.count(ModelVersion.artifact_sha256.distinct()))
        async with self._database.read() as session:
            found = await session.scalar(query.where(ModelVersion.artifact_sha256.in_((job.base, job.target))))
        return found == 2

    async def _end(self, job: Job, end: _End, **counts: int) -> None:
        reason = end.reason and end.reason[:REASON_LENGTH]
        tried = list(dict.fromkeys(end.tried))
        await self._change(job, state=end.state, code=end.code, reason=reason, length=end.length, tried=tried, **counts)
        PATCH_JOBS_ENDED.labels(end.state).inc()
        if end.code is not None:
            PATCHES_SKIPPED.labels(end.code).inc()
        outcome = {"state": end.state, "code": end.code, "reason": reason, "length": end.length}
        _log.info("patch_ended", base=job.base, target=job.target, **outcome)

    async def _change(self, job: Job, **columns: Any) -> None:
        values = {"updated_at": self._clock()} | columns
        async with self._database.write() as session:
            await session.execute(update(PatchJob).where(PatchJob.id == job.id).values(values))

    async def _take_up_abandoned(self, now: datetime) -> None:
        """Queue again what a builder that died had claimed; what died too often is given up."""
        abandoned = (PatchJob.state == RUNNING) & (PatchJob.updated_at < now - ABANDONED_AFTER)
        async with self._database.write() as session:
            for job in await lock_jobs(session, abandoned, skip_locked=True):
                job.state = PENDING
                if job.attempts >= MAX_ATTEMPTS:
                    job.state, job.reason = FAILED, f"its control plane died {MAX_ATTEMPTS} times"
            await session.flush()
            await take_out_unwanted(session, now)

    @asynccontextmanager
    async def _alive(self, job: Job) -> AsyncIterator[None]:
        """Touch the job's row while the block runs."""
        task = asyncio.create_task(self._touch(job))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _touch(self, job: Job) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            with suppress(Unavailable):
                await self._change(job)


def pause_after(failures: int) -> timedelta:
    """Return how long a job waits after so many failures: `FIRST_PAUSE`, doubled by each, at most `LONGEST_PAUSE`."""
    factor: int = 2 ** min(failures - 1, (LONGEST_PAUSE // FIRST_PAUSE).bit_length())  # more would overflow a timedelta
    return min(FIRST_PAUSE * factor, LONGEST_PAUSE)


def _unwanted(why: Unwanted, length: int | None = None) -> _End:
    return _End(SKIPPED, why, SENTENCES[why], length)


@contextmanager
def _folder_in(work_dir: Path) -> Iterator[Path]:
    """Make a folder that is gone after the block."""
    work_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(dir=work_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_empty(work_dir: Path) -> None:
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True, mode=0o700)
