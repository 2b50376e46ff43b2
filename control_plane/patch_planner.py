"""Plans of patches looked at again: right after a deployment, every few minutes during a rollout, else every hour.

A look asks telemetry what the devices of a model in an environment hold, outside any transaction, and then plans anew
(`control_plane.patch_plan`). What it costs is bounded: one question of some milliseconds, one transaction, and a new
manifest only when another patch is to be listed. When telemetry cannot be asked, what it said last stands in for a day,
and then what was deployed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.errors import Missing, Unavailable
from control_plane.holdings import Census, Holdings, Question
from control_plane.metrics import PATCH_LOOKS, PATCH_LOOKS_DUE, PATCH_LOOKS_UNANSWERED
from control_plane.model_names import names_of
from control_plane.patch_policy import LOOK_SECONDS
from control_plane.places import labels_of_one
from control_plane.publish import Publisher
from control_plane.tables import Model, ModelVersion, PatchPlan, utc_now
from control_plane.waiting import is_set_within
from telemetry.cancellation import heed_cancellation

# A deployment wakes the planner; this is for looks that fall due, and for deployments of another control plane.
POLL_SECONDS = 15.0
# Looks that are begun together: each is a question and a transaction, some ten milliseconds.
BATCH = 50
# A look that was begun is done within this, or its control plane died and another one does it.
LEASE = timedelta(minutes=10)
# An embedded ClickHouse takes a second to start, a server may take longer; deployments are planned meanwhile.
START_SECONDS = 30.0
# The newest versions are asked about; older ones are counted with the unknown.
MAX_VERSIONS = 1000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """A look that was claimed."""

    environment_id: str
    model_id: str


class PatchPlanner:
    """Looks at the plans that are due.

    Args:
        database: holds the plans.
        publisher: plans anew, and tells when a deployment made a look due.
        census: tells what devices hold.
        look_seconds: between two looks while a rollout is under way.
        clock: tells the present moment.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        census: Census,
        look_seconds: float = LOOK_SECONDS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._census = census
        self._pause = timedelta(seconds=look_seconds)
        self._clock = clock

    async def run(self) -> None:
        """Look at what falls due until cancelled."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._census.ready()
        while True:
            self._publisher.looks_due.clear()
            looked = 0
            try:
                looked = await self.step()
            except Unavailable as error:
                _log.warning("patch_looks_postponed", reason=str(error))
            except Exception:  # the next round may fare better
                _log.exception("patch_looks_failed")
            heed_cancellation()
            if looked < BATCH:
                await is_set_within(self._publisher.looks_due, POLL_SECONDS)

    async def step(self) -> int:
        """Look at plans that are due, at most `BATCH`; return how many. One that fails is looked at again later.

        Raises:
            Unavailable: the database does not answer.
        """
        looks = await self._claim()
        answering = True
        for look in looks:
            answering = await self._look(look, answering)
        return len(looks)

    async def _look(self, look: _Look, answering: bool) -> bool:
        """Look at one plan; return whether telemetry answers.

        Args:
            answering: False when it did not a moment ago, so that many plans do not wait for it in turn.
        """
        try:
            question = await self._question(look)
            holdings = await self._ask(question) if answering and question is not None else None
            if holdings is None and question is not None:
                PATCH_LOOKS_UNANSWERED.inc()
            source = await self._publisher.plan_again(
                look.environment_id, look.model_id, holdings, self._pause, self._clock()
            )
        except Missing:
            return answering
        except Unavailable:
            raise
        except Exception:  # one plan must not keep the others from being looked at
            _log.exception("patch_look_failed", environment_id=look.environment_id, model_id=look.model_id)
            return answering
        PATCH_LOOKS.labels(source).inc()
        if source != "adoption":
            place = {"environment_id": look.environment_id, "model_id": look.model_id}
            _log.info("patches_planned_without_devices", source=source, answered=holdings is not None, **place)
        return holdings is not None or question is None

    async def _ask(self, question: Question) -> Holdings | None:
        try:
            return await self._census.ask(question, self._clock())
        except Unavailable as error:
            _log.warning("devices_not_counted", reason=str(error), environment=question.environment)
            return None

    async def _question(self, look: _Look) -> Question | None:
        """Return what to ask of telemetry; None when there is no version to ask about.

        Raises:
            Missing: the environment or the model is gone.
        """
        async with self._database.read() as session:
            labels = await labels_of_one(session, look.environment_id)
            model = await session.get(Model, look.model_id)
            if model is None:
                raise Missing("There is no such model.")
            names, versions = await names_of(session, model), await _newest_versions(session, model.id)
        if not versions:
            return None
        return Question(labels.organization_id, labels.application_id, labels.environment, names, versions)

    async def _claim(self) -> list[_Look]:
        """Take the looks that are due for longest; no two planners take the same."""
        now = self._clock()
        due = PatchPlan.look_at <= now
        async with self._database.write() as session:
            PATCH_LOOKS_DUE.set(await session.scalar(select(func.count()).select_from(PatchPlan).where(due)) or 0)
            query = select(PatchPlan).where(due).order_by(PatchPlan.look_at).limit(BATCH)
            plans = list(await session.scalars(query.with_for_update(skip_locked=True)))
            for plan in plans:
                plan.look_at = now + LEASE
            return [_Look(plan.environment_id, plan.model_id) for plan in plans]


async def _newest_versions(session: AsyncSession, model_id: str) -> list[int]:
    query = (
        select(ModelVersion.version)
        .where(ModelVersion.model_id == model_id, ModelVersion.version.is_not(None))
        .order_by(ModelVersion.version.desc())
        .limit(MAX_VERSIONS)
    )
    return [version for version in await session.scalars(query) if version is not None]
