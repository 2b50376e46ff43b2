"""Patches made in the background: a queue in the database, and a process for each patch that is made.

A deployment writes down which patches it would like (`control_plane.patch_plan`). The builder claims them one by one,
fetches both artifacts, has a process of its own make and prove the patch, stores the blob and then the row that names
it, and has every environment that offers the target signed anew. Between patches there is no process.

A job that failed waits before it is tried again, longer each time, and the row says until when and why: a process that
was killed may have room later, and an object store that is away comes back. Only after many failures it is given up,
and the next deployment that wants the patch has it tried anew (`control_plane.patch_plan`).

A claimed job shows that it is alive by touching its row. One that stopped doing so, because its control plane died, is
taken up again, a bounded number of times.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, or_, select, update

from artifacts.encodings import ZSTD_PREFIX, Encoded
from artifacts.errors import BlobMissing, StoreUnavailable
from artifacts.patch.build import Built, PatchLimits, Skipped, build_patch
from artifacts.store import ObjectStore
from control_plane import tables
from control_plane.database import Database
from control_plane.encodings import record_encodings
from control_plane.errors import Missing, Unavailable
from control_plane.isolated import call_isolated
from control_plane.metrics import PATCH_JOBS_ENDED, PATCH_JOBS_WAITING
from control_plane.patch_plan import BUILT, FAILED, PENDING, RUNNING, SKIPPED
from control_plane.publish import Publisher
from control_plane.tables import ArtifactEncoding, ModelVersion, PatchJob, utc_now
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
# The largest pair within the memory limit takes some minutes on a slow core.
BUILD_SECONDS = 1800.0
REASON_LENGTH = 255

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed patch job: from which artifact to which."""

    id: str
    base: str
    target: str
    attempts: int
    failures: int


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
    ) -> None:
        self._database = database
        self._objects = objects
        self._publisher = publisher
        self._work_dir = work_dir
        self._limits = limits or PatchLimits()
        self._workers = workers
        self._clock = clock

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
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._publisher.patches_planned.wait()

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
                state, reason, length = await self._make(job)
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
            await self._end(job, state, reason, length)

    async def _make(self, job: Job) -> tuple[str, str | None, int | None]:
        """Make a patch and publish it; return the job's state, the reason if there is none, and its length."""
        known = await self._known(job)
        if known is None:
            with _folder_in(self._work_dir) as folder:
                outcome = await self._build(job, folder)
                if isinstance(outcome, Skipped):
                    return SKIPPED, f"{outcome.reason}: {outcome.detail}", None
                await self._objects.put_file(outcome.encoded.sha256, outcome.encoded.path)
                await self._record(job, outcome.encoded)
                known = outcome.encoded.length
        await self._publish(job.target)
        return BUILT, None, known

    async def _build(self, job: Job, folder: Path) -> Built | Skipped:
        base, target = folder / "base", folder / "target"
        await self._objects.fetch_to(job.base, base)
        await self._objects.fetch_to(job.target, target)
        full_length = await self._full_length(job.target)
        call = partial(build_patch, base, target, folder / "patch", self._limits, full_length=full_length)
        return await call_isolated(call, BUILD_SECONDS)

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

    async def _known(self, job: Job) -> int | None:
        """Return the patch's length if it was made already, by somebody who then died."""
        made = (
            ArtifactEncoding.artifact_sha256 == job.target,
            ArtifactEncoding.base_sha256 == job.base,
            ArtifactEncoding.name == ZSTD_PREFIX,
        )
        async with self._database.read() as session:
            return await session.scalar(select(ArtifactEncoding.length).where(*made))

    async def _full_length(self, artifact: str) -> int:
        """Return the length of the smallest encoding that needs no base; 0 when there is none any more."""
        full = ArtifactEncoding.artifact_sha256 == artifact, ArtifactEncoding.base_sha256 == ""
        async with self._database.read() as session:
            return await session.scalar(select(func.min(ArtifactEncoding.length)).where(*full)) or 0

    async def _record(self, job: Job, encoded: Encoded) -> None:
        async with self._database.write() as session:
            await record_encodings(session, job.target, [encoded])

    # --- The queue ------------------------------------------------------------------------------------------------

    async def _claim(self) -> Job | None:
        """Take the job that waits longest of those that are due; no two builders take the same."""
        async with self._database.write() as session:
            waiting = select(func.count()).where(PatchJob.state.in_((PENDING, RUNNING)))
            PATCH_JOBS_WAITING.set(await session.scalar(waiting) or 0)
            due = or_(PatchJob.retry_at.is_(None), PatchJob.retry_at <= self._clock())
            query = select(PatchJob).where(PatchJob.state == PENDING, due).order_by(PatchJob.created_at).limit(1)
            row = await session.scalar(query.with_for_update(skip_locked=True))
            if row is None:
                return None
            row.state = RUNNING
            row.attempts += 1
            row.updated_at = self._clock()
            return Job(row.id, row.base_sha256, row.target_sha256, row.attempts, row.failures)

    async def _failed(self, job: Job, error: Exception, attempts: int) -> None:
        """Put a job back for later, or give it up."""
        reason, failures = str(error) or type(error).__name__, job.failures + 1
        _log.warning("patch_failed", base=job.base, target=job.target, error=repr(error), failures=failures)
        counts = {"attempts": attempts, "failures": failures}
        if not await self._lives(job):
            await self._end(job, FAILED, "deleted: a version that it is from or leads to is gone", None, **counts)
        elif attempts >= MAX_ATTEMPTS or failures >= MAX_FAILURES:
            await self._end(job, FAILED, f"failed {failures} times: {reason}", None, **counts)
        else:
            retry_at = self._clock() + pause_after(failures)
            await self._change(job, state=PENDING, reason=reason[:REASON_LENGTH], retry_at=retry_at, **counts)

    async def _lives(self, job: Job) -> bool:
        """Say whether versions still have both artifacts."""
        query = select(func.count(ModelVersion.artifact_sha256.distinct()))
        async with self._database.read() as session:
            found = await session.scalar(query.where(ModelVersion.artifact_sha256.in_((job.base, job.target))))
        return found == 2

    async def _end(self, job: Job, state: str, reason: str | None, length: int | None, **counts: int) -> None:
        await self._change(job, state=state, reason=reason and reason[:REASON_LENGTH], length=length, **counts)
        PATCH_JOBS_ENDED.labels(state).inc()
        _log.info("patch_ended", base=job.base, target=job.target, state=state, reason=reason, length=length)

    async def _change(self, job: Job, **columns: Any) -> None:
        values = {"updated_at": self._clock()} | columns
        async with self._database.write() as session:
            await session.execute(update(PatchJob).where(PatchJob.id == job.id).values(values))

    async def _take_up_abandoned(self, now: datetime) -> None:
        """Queue again what a builder that died had claimed; what died too often is given up."""
        abandoned = PatchJob.state == RUNNING, PatchJob.updated_at < now - ABANDONED_AFTER
        hopeless = {"state": FAILED, "reason": f"its control plane died {MAX_ATTEMPTS} times"}
        async with self._database.write() as session:
            died_often = PatchJob.attempts >= MAX_ATTEMPTS
            await session.execute(update(PatchJob).where(*abandoned, died_often).values(**hopeless))
            await session.execute(update(PatchJob).where(*abandoned).values(state=PENDING))

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
