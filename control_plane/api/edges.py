"""Which edges there are, as they tell by way of Redis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from control_plane.api.call import Call
from control_plane.api.schemas import EdgeOut
from control_plane.errors import Unavailable
from manifests.store import StoreUnavailable


async def list_edges(call: Call) -> list[EdgeOut]:
    """List the edges that reported within a day. They serve the environments of all organizations."""
    try:
        edges = await call.services.edges.read()
    except StoreUnavailable:
        raise Unavailable("Redis does not answer, by way of which edges tell that they are there.") from None
    return [
        EdgeOut(
            name=edge.report.name,
            version=edge.report.version,
            started_at=datetime.fromtimestamp(edge.report.started_at, UTC),
            seen_at=call.now - timedelta(seconds=edge.silent_seconds),
            silent=edge.is_silent,
            environments=edge.report.environments,
        )
        for edge in edges
    ]
