"""Metadata signed anew before it expires, with the same content.

Timestamps live a week, so that a device notices within a week that it is being shown an old manifest. Each manifest
has a moment of its own at which it is due (`Manifest.resign_at`); a root is renewed when a quarter of its life is left.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from sqlalchemy import func, or_, select

from control_plane.database import Database
from control_plane.errors import Missing
from control_plane.metrics import MANIFESTS_DUE, MANIFESTS_RESIGNED, RESIGN_DUE, ROOT_EXPIRES
from control_plane.publish import Publisher
from control_plane.tables import Manifest, Root, utc_now
from control_plane.waiting import is_set_within
from manifests.trust import Lifetimes
from telemetry.cancellation import heed_cancellation

# Manifests fall due days before they expire: looking every minute is early enough.
CHECK_SECONDS = 60.0
# What is read at once; signing one takes a millisecond, so a round of a thousand stays short.
BATCH = 1000
ROOT_RENEWAL_SHARE = 0.25
_ROOT_IN_FORCE = (Root.environment_id == Manifest.environment_id) & (Root.version == Manifest.root)

_log = structlog.get_logger(__name__)


class Resigner:
    """Signs anew what is due.

    Args:
        database: knows what is due.
        publisher: signs and delivers.
        lifetimes: how long roots live.
    """

    def __init__(self, database: Database, publisher: Publisher, lifetimes: Lifetimes) -> None:
        self._database = database
        self._publisher = publisher
        self._root_margin = lifetimes.root * ROOT_RENEWAL_SHARE

    async def run(self) -> None:
        """Sign what falls due until cancelled."""
        while True:
            self._publisher.signing_due.clear()
            signed = 0
            try:
                signed = await self.step(utc_now())
            except Exception:  # the database may be away; the next round may fare better
                _log.exception("resigning_failed")
            heed_cancellation()
            if signed < BATCH:
                await is_set_within(self._publisher.signing_due, CHECK_SECONDS)

    async def step(self, now: datetime) -> int:
        """Sign what is due at ``now``; return how many. One that fails is logged and tried again next time."""
        due = await self._due(now)
        MANIFESTS_DUE.set(len(due))
        signed = sum([await self._resign(environment_id, renew_root) for environment_id, renew_root in due])
        await self._tell_what_is_next()
        return signed

    async def _resign(self, environment_id: str, renew_root: bool) -> bool:
        try:
            await self._publisher.resign(environment_id, renew_root)
        except Missing:
            return False
        except Exception:  # a key that cannot be used must not keep the other environments from being signed
            _log.exception("resigning_environment_failed", environment_id=environment_id)
            return False
        MANIFESTS_RESIGNED.inc()
        return True

    async def _tell_what_is_next(self) -> None:
        """Set the moments to alert on: they tell of a resigner that has stopped, too. 0 while there is no manifest."""
        query = select(func.min(Manifest.resign_at), func.min(Root.expires_at)).join(Root, _ROOT_IN_FORCE)
        async with self._database.read() as session:
            moments: list[datetime | None] = list((await session.execute(query)).one())
        for gauge, moment in zip((RESIGN_DUE, ROOT_EXPIRES), moments, strict=True):
            gauge.set(0 if moment is None else moment.timestamp())

    async def _due(self, now: datetime) -> list[tuple[str, bool]]:
        """Return the environments that are due, the most urgent first, and whether the root is due as well."""
        root_due = Root.expires_at <= now + self._root_margin
        query = (
            select(Manifest.environment_id, root_due)
            .join(Root, _ROOT_IN_FORCE)
            .where(or_(Manifest.resign_at <= now, root_due))
            .order_by(Manifest.resign_at)
            .limit(BATCH)
        )
        async with self._database.read() as session:
            return [(environment_id, bool(due)) for environment_id, due in (await session.execute(query))]
