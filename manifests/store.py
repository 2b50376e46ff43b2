"""Where manifests meet the edges: the publisher writes, the edges read and are told of changes.

The database is the truth and a store is a read model of it: whatever is lost here can be published again, and
publishing again is harmless. A revision never goes back, and a withdrawn key stays withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

# Notices that a slow reader of the in-memory store may lag behind before it is told to read everything again.
MAX_QUEUED_NOTICES = 1024


class StoreUnavailable(Exception):
    """The store cannot be reached or does not do its work. What was asked may or may not have happened."""


class CorruptPublication(StoreUnavailable):
    """What the store holds under a key is no publication. Publishing again repairs it."""


class Withdrawn(Enum):
    """The type of `WITHDRAWN`."""

    WITHDRAWN = "withdrawn"


# What `load` returns for a key that was valid once and is no longer.
WITHDRAWN: Final = Withdrawn.WITHDRAWN


@dataclass(frozen=True, slots=True)
class Labels:
    """Whose environment it is. The edge puts these on events; devices never see them."""

    organization_id: str
    organization: str
    application_id: str
    application: str
    environment_id: str
    environment: str


@dataclass(frozen=True, slots=True)
class Publication:
    """All that the edges serve under one environment key.

    Attributes:
        revision: the TUF timestamp's version.
        body: the manifest body, with its strong ETag.
        files: the metadata by the names of TUF's layout, with every root from 1 on.
    """

    key: str
    revision: int
    body: bytes
    etag: str
    files: Mapping[str, bytes]
    labels: Labels


@dataclass(frozen=True, slots=True)
class Notice:
    """A key has a new revision; a negative one says that the key was withdrawn at that revision."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Resubscribed:
    """Notices flow from now on. Any number may have been lost before, so read all revisions again."""


class ManifestStore(Protocol):
    """A read model of what every environment offers. Every method may raise `StoreUnavailable`."""

    async def publish(self, publication: Publication) -> bool:
        """Store a publication and tell the edges.

        The same revision again is stored and told again, so publishing repairs whatever was lost half-way.

        Returns:
            False when a newer revision is there, or the key was withdrawn; then nothing changes.
        """

    async def withdraw(self, key: str, revision: int) -> None:
        """Make a key invalid and tell the edges. A tombstone keeps late publishers from bringing it back."""

    async def load(self, key: str) -> Publication | Withdrawn | None:
        """Return the publication of a key, WITHDRAWN, or None when the store knows nothing of it.

        None is no proof that the key is invalid: the store may have been emptied.

        Raises:
            CorruptPublication: there is something else under the key.
        """

    async def revisions(self) -> dict[str, int]:
        """Return the revision of every key; negative for a key that was withdrawn at that revision."""

    def notices(self) -> AsyncIterator[Notice | Resubscribed]:
        """Yield what changes, for ever; `Resubscribed` first and whenever some notices may have been lost.

        Never raises by itself: while the store cannot be reached, it tries again.
        """

    async def generation(self) -> str | None:
        """Return the marker that was set; None says that the store has been emptied since."""

    async def set_generation(self, value: str) -> None:
        """Set the marker, once everything has been published."""

    async def begin_filling(self, value: str) -> None:
        """Remember that everything is being published, so that an emptying meanwhile is seen."""

    async def end_filling(self, value: str) -> bool:
        """Set the marker to the value that filling began with.

        Returns:
            False when the store was emptied since, or another filling began; then the marker is not set.
        """

    async def ping(self) -> None:
        """Return when the store works."""


class MemoryManifestStore:
    """A store within one process, for tests and for tools."""

    def __init__(self) -> None:
        self._held: dict[str, Publication] = {}
        self._withdrawn: dict[str, int] = {}
        self._generation: str | None = None
        self._filling: str | None = None
        self._readers: set[asyncio.Queue[Notice | Resubscribed]] = set()

    async def publish(self, publication: Publication) -> bool:
        """See `ManifestStore.publish`."""
        held = self._held.get(publication.key)
        if publication.key in self._withdrawn or (held is not None and held.revision > publication.revision):
            return False
        self._held[publication.key] = publication
        self._tell(Notice(publication.key, publication.revision))
        return True

    async def withdraw(self, key: str, revision: int) -> None:
        """See `ManifestStore.withdraw`. The tombstone lives as long as the store."""
        held = self._held.pop(key, None)
        newest = max(revision, self._withdrawn.get(key, 0), held.revision if held else 0)
        self._withdrawn[key] = newest
        self._tell(Notice(key, -newest))

    async def load(self, key: str) -> Publication | Withdrawn | None:
        """See `ManifestStore.load`."""
        return WITHDRAWN if key in self._withdrawn else self._held.get(key)

    async def revisions(self) -> dict[str, int]:
        """See `ManifestStore.revisions`."""
        held = {key: publication.revision for key, publication in self._held.items()}
        return held | {key: -revision for key, revision in self._withdrawn.items()}

    async def notices(self) -> AsyncIterator[Notice | Resubscribed]:
        """See `ManifestStore.notices`."""
        queue: asyncio.Queue[Notice | Resubscribed] = asyncio.Queue(MAX_QUEUED_NOTICES)
        self._readers.add(queue)
        try:
            yield Resubscribed()
            while True:
                yield await queue.get()
        finally:
            self._readers.discard(queue)

    async def generation(self) -> str | None:
        """See `ManifestStore.generation`."""
        return self._generation

    async def set_generation(self, value: str) -> None:
        """See `ManifestStore.set_generation`."""
        self._generation = value

    async def begin_filling(self, value: str) -> None:
        """See `ManifestStore.begin_filling`."""
        self._filling = value

    async def end_filling(self, value: str) -> bool:
        """See `ManifestStore.end_filling`."""
        if self._filling == value:
            self._generation = value
        return self._filling == value

    async def ping(self) -> None:
        """See `ManifestStore.ping`."""

    def _tell(self, notice: Notice) -> None:
        for queue in self._readers:
            if queue.full():
                _forget_all(queue)
                queue.put_nowait(Resubscribed())
            else:
                queue.put_nowait(notice)


def _forget_all(queue: asyncio.Queue[Notice | Resubscribed]) -> None:
    while not queue.empty():
        queue.get_nowait()
