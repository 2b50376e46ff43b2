"""How manifests come from the store into memory: told by notices, read again when any may have been lost, and polled.

Notices are quick (well below a millisecond) and may get lost while a connection is made anew; so everything is read
again on every subscription, and slowly polled as well. When the store is away or was emptied, what is in memory stays:
only a withdrawal takes a key away, never its absence. And only a store that was filled (it has a generation) can tell
that a key does not exist: one that was emptied looks the same as one without environments.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog

from edge import metrics
from edge.manifest_cache import ManifestCache, Unsound
from manifests.store import (
    WITHDRAWN,
    CorruptPublication,
    ManifestStore,
    Notice,
    Publication,
    Resubscribed,
    StoreUnavailable,
    Withdrawn,
)

# Loads in flight while everything is read again: a thousand environments take a fraction of a second, and Redis is
# not kept from its other clients.
LOADS_AT_ONCE = 16
# A store that hangs must not keep the poll from trying again.
READ_TIMEOUT_SECONDS = 30.0

log = structlog.get_logger(__name__)


class ManifestFeed:
    """Keeps a cache up to date.

    Args:
        store: where manifests come from.
        cache: where they go.
        poll_seconds: mean interval of the slow poll.
        pause: sleeps for some seconds.
    """

    def __init__(
        self,
        store: ManifestStore,
        cache: ManifestCache,
        poll_seconds: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._cache = cache
        self._poll_seconds = poll_seconds
        self._pause = pause
        self._reachable: bool | None = None

    async def synchronize(self) -> bool:
        """Take over all that is newer in the store; say whether the store answered."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                # Before the revisions: it is set after the last of them, so what is read after it is all there is.
                filled = await self._store.generation() is not None
                await self._read_everything()
        except (StoreUnavailable, TimeoutError) as error:
            self._is_reachable(False, error)
            return False
        self._is_reachable(True)
        if filled:
            self._cache.complete()
        metrics.MANIFEST_STORE_READ_SECONDS.set(time.time())
        return True

    async def follow(self) -> None:
        """Take over what notices tell, until cancelled."""
        while True:
            async for told in self._store.notices():
                match told:
                    case Resubscribed():
                        await self.synchronize()
                    case Notice(key, revision):
                        await self._hear(key, revision)
            # A store's notices do not end; if they do, the poll bridges the pause before they are asked for again.
            await self._pause(self._poll_seconds)

    async def poll(self) -> None:
        """Read all revisions again and again, until cancelled."""
        while True:
            # Spread, so that the workers of many machines do not ask in step.
            await self._pause(self._poll_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - nothing secret about it
            await self.synchronize()

    async def _hear(self, key: str, revision: int) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                await self._bring(key, revision)
        except (StoreUnavailable, TimeoutError) as error:
            self._is_reachable(False, error)

    async def _read_everything(self) -> None:
        behind = [
            (key, revision) for key, revision in (await self._store.revisions()).items() if self._lags(key, revision)
        ]
        for start in range(0, len(behind), LOADS_AT_ONCE):
            await asyncio.gather(*(self._bring(*pair) for pair in behind[start : start + LOADS_AT_ONCE]))

    def _lags(self, key: str, revision: int) -> bool:
        held = self._cache.revision(key)
        return held > 0 if revision < 0 else held < revision

    async def _bring(self, key: str, revision: int) -> None:
        """Make the cache hold what the store says of ``key``; a negative revision says that it was withdrawn."""
        if revision < 0:
            self._cache.withdraw(key)
        elif self._lags(key, revision):
            try:
                self._take(key, await self._store.load(key))
            except (CorruptPublication, Unsound) as error:
                # One broken entry must not keep the others from being served; publishing again repairs it.
                metrics.MANIFESTS_REFUSED.inc()
                log.error("manifest_refused", key=key, reason=str(error))

    def _take(self, key: str, loaded: Publication | Withdrawn | None) -> None:
        match loaded:
            case Publication() if loaded.key != key:
                raise Unsound("it is the publication of another key")
            case Publication():
                if self._cache.take(loaded):
                    metrics.MANIFESTS_TAKEN.inc()
                    log.debug("manifest_taken", key=key, revision=loaded.revision)
            case _ if loaded is WITHDRAWN:
                self._cache.withdraw(key)
            case _:
                pass  # the store was emptied between the notice and the load: what is served stays

    def _is_reachable(self, reachable: bool, error: BaseException | None = None) -> None:
        metrics.MANIFEST_STORE_UP.set(reachable)
        if reachable != self._reachable:
            cause = type(error).__name__ if error else None
            log.log(
                20 if reachable else 30, "manifest_store_reachable" if reachable else "manifest_store_lost", cause=cause
            )
        self._reachable = reachable
