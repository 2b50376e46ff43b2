"""The store in memory, where it differs from Redis: its listeners have queues of their own."""

from __future__ import annotations

from typing import Any

from manifests.store import MAX_QUEUED_NOTICES, Labels, MemoryManifestStore, Notice, Publication, Resubscribed


async def test_a_listener_that_falls_behind_is_told_to_read_again() -> None:
    store = MemoryManifestStore()
    notices: Any = store.notices()
    assert await anext(notices) == Resubscribed()
    for revision in range(1, MAX_QUEUED_NOTICES + 3):
        await store.publish(Publication("prod-1", revision, b"", "", {}, Labels(*"abcdef")))
    assert await anext(notices) == Resubscribed()
    assert await anext(notices) == Notice("prod-1", MAX_QUEUED_NOTICES + 2)
    await notices.aclose()
