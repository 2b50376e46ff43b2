"""From the database to the edges: what changed is told to the manifest store (Redis), until it is done.

A change writes an outbox row in its own transaction, so that whatever happens next, the row is there exactly when the
change is. Whoever made the change has it delivered at once (`deliver`); what fails is delivered by the loop (`run`).
A delivery always carries the manifest that is in force, never the one that the row was written for, so rows need no
order and one delivery serves them all.

The store is a read model and may be emptied. A marker in it tells that it holds everything; when the marker is gone,
the loop publishes every environment again. From time to time, and after every outage, it also compares revisions.

A key that was withdrawn must not come back. The store's tombstones keep late publishers from it, but an emptied store
has lost them too, and an edge that was cut off may still serve the key. So the loop withdraws it again in a store that
was emptied, and wherever a comparison finds it: from what the database keeps of keys that ended lately, those of
environments that were deleted included.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, func, or_, select, update

from control_plane.database import Database
from control_plane.errors import Unavailable
from control_plane.metrics import OUTBOX_ROWS, PUBLICATIONS, STORE_FILLED
from control_plane.publications import publications_of, valid_keys
from control_plane.tables import Environment, EnvironmentKey, Manifest, OutboxRow, WithdrawnKey, new_id, utc_now
from manifests.store import ManifestStore, StoreUnavailable
from telemetry.cancellation import heed_cancellation

# How often the loop looks for rows left behind, expired keys and an emptied store. Each is one small question.
TICK_SECONDS = 2.0
# While the store is away, the pause grows up to this; after an outage the edges have everything this soon.
MAX_PAUSE_SECONDS = 5.0
# How long a deploy waits for the store before it answers that the rest is up to the loop.
DELIVERY_SECONDS = 2.0
# Revisions are compared this often although the marker is there: one read of the sorted set.
COMPARE_EVERY = timedelta(seconds=30)
# Environments that are read and published together: at 10 kB each they are half a megabyte of memory.
BATCH = 50
# Keys that were withdrawn this lately are withdrawn again in a store that was emptied. An edge that was away for
# longer has dropped its snapshot's manifests as expired, because timestamps live a week.
RETELL_WITHDRAWN_FOR = timedelta(days=30)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pending:
    """Outbox rows of one environment."""

    environment_id: str
    row_ids: tuple[int, ...]
    withdrawn: tuple[tuple[str, int], ...]


class OutboxRelay:
    """Tells the manifest store what the database says.

    Args:
        database: the truth.
        store: the read model that the edges follow.
    """

    def __init__(self, database: Database, store: ManifestStore) -> None:
        self._database = database
        self._store = store
        self._compared_at: datetime | None = None

    async def deliver(self, environment_id: str) -> bool:
        """Tell the store about one environment now; a failure is left to the loop.

        Returns:
            Whether the store, and so every edge that is connected to it, has what is in force.
        """
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                await self._deliver(await self._pending(environment_id))
        except (StoreUnavailable, Unavailable, TimeoutError) as error:
            _log.warning("delivery_postponed", environment_id=environment_id, reason=str(error) or "timeout")
            return False
        return True

    async def run(self) -> None:
        """Deliver, withdraw and heal until cancelled."""
        failures = 0
        while True:
            try:
                await self.step(utc_now())
                failures = 0
            except (StoreUnavailable, Unavailable) as error:
                failures += 1
                self._compared_at = None
                _log.warning("manifest_store_unavailable", failures=failures, reason=str(error))
            except Exception:  # a fault in one round must not end the healing
                failures += 1
                _log.exception("outbox_round_failed")
            heed_cancellation()
            await asyncio.sleep(_pause(failures))

    async def step(self, now: datetime) -> None:
        """Do one round of the loop.

        Raises:
            StoreUnavailable: the store does not answer; the next round goes on.
            Unavailable: the database does not answer.
        """
        await self._withdraw_expired(now)
        for environment_id in await self._waiting():
            await self._deliver_or_put_back(environment_id)
        await self._reconcile(now)

    # --- Delivering -----------------------------------------------------------------------------------------------

    async def _deliver(self, pending: Pending) -> None:
        """Publish under every valid key, withdraw the others, and only then forget the rows."""
        await self._publish([pending.environment_id])
        for key, revision in pending.withdrawn:
            await self._store.withdraw(key, revision)
        if pending.row_ids:
            await self._done(pending)

    async def _deliver_or_put_back(self, environment_id: str) -> None:
        """Deliver; an environment that fails by its own fault goes to the end of the queue."""
        pending = await self._pending(environment_id)
        try:
            await self._deliver(pending)
        except (StoreUnavailable, Unavailable):
            raise
        except Exception:  # whatever it is, the other environments are not to suffer
            _log.exception("delivery_failed", environment_id=environment_id)
            async with self._database.write() as session:
                rows = update(OutboxRow).where(OutboxRow.id.in_(pending.row_ids))
                await session.execute(rows.values(attempts=OutboxRow.attempts + 1))

    async def _publish(self, environment_ids: Sequence[str]) -> None:
        async with self._database.read() as session:
            publications = await publications_of(session, environment_ids, utc_now())
        for publication in publications:
            if not await self._store.publish(publication):
                environment_id = publication.labels.environment_id
                _log.warning("newer_revision_in_store", environment_id=environment_id, revision=publication.revision)
            PUBLICATIONS.inc()

    async def _pending(self, environment_id: str) -> Pending:
        async with self._database.read() as session:
            query = select(OutboxRow).where(OutboxRow.environment_id == environment_id)
            rows = (await session.scalars(query)).all()
        withdrawn = tuple((key, row.revision) for row in rows for key in row.withdrawn_keys)
        return Pending(environment_id, tuple(row.id for row in rows), withdrawn)

    async def _done(self, pending: Pending) -> None:
        withdrawn = [key for key, _ in pending.withdrawn]
        async with self._database.write() as session:
            await session.execute(delete(OutboxRow).where(OutboxRow.id.in_(pending.row_ids)))
            if withdrawn:
                told = update(EnvironmentKey).where(EnvironmentKey.key.in_(withdrawn)).values(withdrawn_at=utc_now())
                await session.execute(told)

    async def _waiting(self) -> list[str]:
        """Return the environments that have rows, the longest waiting first."""
        async with self._database.read() as session:
            OUTBOX_ROWS.set(await session.scalar(select(func.count()).select_from(OutboxRow)) or 0)
            order = func.max(OutboxRow.attempts), func.min(OutboxRow.id)
            query = select(OutboxRow.environment_id).group_by(OutboxRow.environment_id).order_by(*order).limit(BATCH)
            return list(await session.scalars(query))

    async def _withdraw_expired(self, now: datetime) -> None:
        """Queue the withdrawal of keys whose time is over, each once."""
        async with self._database.read() as session:
            query = (
                select(EnvironmentKey.id, EnvironmentKey.key, Manifest.environment_id, Manifest.revision)
                .join(Manifest, Manifest.environment_id == EnvironmentKey.environment_id)
                .where(~valid_keys(now), EnvironmentKey.withdrawn_at.is_(None))
                .limit(BATCH)
            )
            expired = (await session.execute(query)).all()
        for key_id, key, environment_id, revision in expired:
            await self._store.withdraw(key, revision)
            async with self._database.write() as session:
                told = update(EnvironmentKey).where(EnvironmentKey.id == key_id).values(withdrawn_at=utc_now())
                await session.execute(told)
            _log.info("key_withdrawn", environment_id=environment_id)

    # --- Healing --------------------------------------------------------------------------------------------------

    async def _reconcile(self, now: datetime) -> None:
        if await self._store.generation() is None:
            await self._republish_all(now)
            # Emptied again before the marker was set, it would look full: the next round compares.
            self._compared_at = None
        elif self._compared_at is None or now - self._compared_at >= COMPARE_EVERY:
            await self._publish_what_lags(now)
            self._compared_at = now

    async def _republish_all(self, now: datetime) -> None:
        """Fill an empty store. The marker is set last: an attempt that breaks off is made again from the start."""
        filling, published = new_id(), 0
        await self._store.begin_filling(filling)
        async for environment_ids in self._batches():
            await self._publish(environment_ids)
            published += len(environment_ids)
        ended = await self._ended_keys(now)
        for key, revision in ended.items():
            await self._store.withdraw(key, revision)
        if not await self._store.end_filling(filling):
            _log.warning("manifest_store_emptied_while_filled")
            return
        STORE_FILLED.inc()
        _log.info("manifest_store_filled", environments=published, withdrawn_keys=len(ended))

    async def _ended_keys(self, now: datetime) -> dict[str, int]:
        """Return the keys that ended lately, with the revision at which they are withdrawn."""
        since = now - RETELL_WITHDRAWN_FOR
        ended = or_(EnvironmentKey.revoked_at > since, EnvironmentKey.expires_at > since)
        async with self._database.read() as session:
            living = (
                select(EnvironmentKey.key, Manifest.revision)
                .join(Manifest, Manifest.environment_id == EnvironmentKey.environment_id)
                .where(~valid_keys(now), ended)
            )
            deleted = select(WithdrawnKey.key, WithdrawnKey.revision).where(WithdrawnKey.withdrawn_at > since)
            return {key: revision for query in (living, deleted) for key, revision in await session.execute(query)}

    async def _publish_what_lags(self, now: datetime) -> None:
        """Publish every environment of which the store has an older revision, or none; withdraw ended keys it has."""
        held = await self._store.revisions()
        for key, revision in (await self._ended_keys(now)).items():
            if held.get(key, 0) > 0:
                _log.info("manifest_store_held_ended_key", revision=held[key])
                await self._store.withdraw(key, revision)
        async for environment_ids in self._batches():
            async with self._database.read() as session:
                query = (
                    select(EnvironmentKey.key, EnvironmentKey.environment_id, Manifest.revision)
                    .join(Manifest, Manifest.environment_id == EnvironmentKey.environment_id)
                    .where(EnvironmentKey.environment_id.in_(environment_ids), valid_keys(now))
                )
                rows = (await session.execute(query)).all()
            lagging = {environment for key, environment, revision in rows if 0 <= held.get(key, 0) < revision}
            if lagging:
                _log.info("manifest_store_lagged", environments=len(lagging))
                await self._publish(sorted(lagging))

    async def _batches(self) -> AsyncIterator[list[str]]:
        """Yield the ids of all environments, in batches."""
        last = ""
        while True:
            async with self._database.read() as session:
                query = select(Environment.id).where(Environment.id > last).order_by(Environment.id).limit(BATCH)
                batch = list(await session.scalars(query))
            if not batch:
                return
            yield batch
            last = batch[-1]


def _pause(failures: int) -> float:
    """Return how long to wait before the next round, with some chance in it while the store is away."""
    if failures == 0:
        return TICK_SECONDS
    longest = min(MAX_PAUSE_SECONDS, 0.5 * 2.0**failures)
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads load, keeps no secret
